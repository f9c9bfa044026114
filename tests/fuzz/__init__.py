"""Random problems, each solved by femnn and by its network written out in UFL.

``python -m tests.fuzz`` draws them from seeds.  A problem (``grammar.py``) is a description; it is
written as a script (``script.py``, with the text of its equations in ``equations.py`` and of what
users do between recording and evaluation in ``moves.py``) that needs no more than
``support.py``; running the script is the check (``check.py``), and a shrunken one is what is
printed where the two sides differ (``shrink.py``).
"""
