"""What users do between recording and evaluation, as text; none may change what is recorded.

Moves that end in ``_left`` leave a value changed, which the next recording takes.
"""

MOVES = {
    "assign_and_back": "old = values(mine.f)\nput(mine.f, 2 * old)\nput(mine.f, old)",
    "assign_left": "put(mine.f, 1.2 * values(mine.f))",
    "constant_left": "put(mine.c, 1.1 * values(mine.c))",
    "operand_left": "put(mine.m, 0.8 * values(mine.m))",
    "unknown_left": "put(mine.u, 0.5 * values(mine.u))",
    "interpolate_left": "with stop_annotating():\n    mine.m.interpolate(mine.m * mine.c)",
    "weights_and_back": (
        "old = values(weights[0])\nput(weights[0], 1.3 * old)\nput(weights[0], old)"
    ),
    "weights_left": "put(weights[0], 0.9 * values(weights[0]))",
    "torch_left": (
        "with torch.no_grad():\n    for p in nets[0].parameters():\n        p.mul_(1.1)"
    ),
    "solve_elsewhere": (
        "old = values(weights[-1])\nput(weights[-1], 1.2 * old)\n"
        "with stop_annotating():\n    run(mine, k, solve, measure_goal)\nput(weights[-1], old)"
    ),
    "solve_again": "with stop_annotating():\n    run(mine, k, solve, measure_goal)",
    "hidden_and_back": (
        "for net in nets:\n    old = Hidden(net).numbers\n    put(Hidden(net), 1.4 * old)\n"
        "    with stop_annotating():\n        measure_goal()\n    put(Hidden(net), old)"
    ),
    "hidden_and_back_unused": (
        "for net in nets:\n    old = Hidden(net).numbers\n    put(Hidden(net), 1.4 * old)\n"
        "    put(Hidden(net), old)"
    ),
    "hidden_recorded": (
        "for net in nets:\n    put(Hidden(net), 0.9 * Hidden(net).numbers)\ncase.record()"
    ),
    "mesh_and_back": (
        "old = mesh.coordinates.dat.data_ro.copy()\nmesh.coordinates.dat.data[:] *= 1.1\n"
        "with stop_annotating():\n    measure_goal()\nmesh.coordinates.dat.data[:] = old"
    ),
    "deepcopy_net": "twin = deepcopy(nets[0])\nput(femnn.Weights.of(twin), 0 * values(weights[0]))",
    "deepcopy_law": "twin = deepcopy(k[0])\nput(twin.weights, 0 * values(twin.weights))",
    "copy_values": "taken = k[0].update().copy(deepcopy=True)\nput(taken, 0 * values(taken))",
    "save_and_load": (
        "with shared_folder(mesh.comm) as folder:\n"
        '    femnn.save(nets[0], f"{folder}/net.safetensors", comm=mesh.comm)\n'
        "    put(weights[0], 0.7 * values(weights[0]))\n    put(Hidden(nets[0]), [2.0, 0.3])\n"
        '    femnn.load(f"{folder}/net.safetensors", into=nets[0])\n'
        "if isinstance(nets[0], Scaled):\n    nets[0].shift = 0.1"
    ),
    "state_dict": "nets[0].load_state_dict(nets[0].state_dict())",
    "backward": (
        "nets[0](torch.zeros(3, inputs[0], dtype=torch.float64)).sum().backward()\n"
        "nets[0].zero_grad()"
    ),
    "modes": "nets[0].eval()\nnets[0].train()",
    "assemble_other": "check_other(case)",
    "fresh": "k, solve, measure_goal = build()\ncase.record()",
    "record_more": (
        "continue_annotation()\nweights[0].assign(0.8 * values(weights[0]))\n"
        "run(mine, k, solve, measure_goal)\npause_annotation()"
    ),
    "new_functional": (
        "case.Jhat = ReducedFunctional(case.J, list(case.Jhat.controls))\ncase.here_again()"
    ),
    "collect": "gc.collect()",
}
