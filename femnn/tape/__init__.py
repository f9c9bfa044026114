"""What pyadjoint records of ours: weights, and running a tape by a schedule."""
