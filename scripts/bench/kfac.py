"""K-FAC and E-KFAC: hesscomp against curvlinops, the same eigenvalues and how long they take.

    python scripts/bench/kfac.py --peer /path/to/python   # of an environment with torch, curvlinops

Both sides make the factors of the Gauss-Newton matrix (type-2) of one network with one set of
weights. First of a small one in float64, whose dense matrices must have the same eigenvalues; then
of larger ones in float32, in turn, with the eigenproblems that an inverse needs.
"""

import argparse
import json
import subprocess
import sys
import time

import numpy as np
import record

SMALL = "small CNN"
NETWORKS = {  # rows, side of the images, channels of 3 x 3 convolutions, widths of dense layers
    SMALL: (20, 5, (2, 3), (4,)),
    "784-15-10": (10_000, 28, (), (15, 10)),
    "784-200-100-10": (5_000, 28, (), (200, 100, 10)),
    "CNN 8-16": (1_000, 12, (8, 16), (10,)),
}
KINDS = {"K-FAC": False, "E-KFAC": True}


def setting(name: str):
    """Images (rows, side, side, 1), classes, and kernels in Keras' shapes."""
    rows, side, channels, widths = NETWORKS[name]
    rng, before, kernels = np.random.default_rng(0), 1, []
    for after in channels:
        kernels.append(rng.standard_normal((3, 3, before, after)) / 3)
        before = after
    before *= side * side
    for after in widths:
        kernels.append(rng.standard_normal((before, after)) / np.sqrt(before))
        before = after
    X, y = rng.standard_normal((rows, side, side, 1)), rng.integers(0, widths[-1], rows)
    return X, y, [kernel.astype(np.float32) for kernel in kernels]  # as Keras keeps them


def hesscomp_factors(name: str, dtype: str) -> dict:
    from hesscomp.curvature.tensorflow import keras, set_threads

    set_threads(1)
    import hesscomp as hc

    X, y, kernels = setting(name)
    stack, flat = [keras.Input(X.shape[1:])], False
    for i, kernel in enumerate(kernels):
        if kernel.ndim == 2 and not flat:
            stack, flat = [*stack, keras.layers.Flatten()], True
        activation = "tanh" if i < len(kernels) - 1 else None
        if kernel.ndim == 4:
            stack.append(keras.layers.Conv2D(kernel.shape[-1], 3, 1, "same", activation=activation))
        else:
            stack.append(keras.layers.Dense(kernel.shape[-1], activation))
    model = keras.Sequential(stack)
    model.set_weights([part for W in kernels for part in (W, np.zeros(W.shape[-1]))])
    problem = hc.KerasProblem(model, "softmax-cross-entropy", (X, y), dtype=dtype)
    return {
        kind: lambda corrected=corrected: hc.kfac(problem, corrected=corrected)
        for kind, corrected in KINDS.items()
    }


def peer_factors(name: str, dtype: str) -> dict:
    """curvlinops on PyTorch."""
    import torch
    from curvlinops import EKFACLinearOperator, KFACInverseLinearOperator, KFACLinearOperator

    torch.set_num_threads(1)
    torch.set_default_dtype(getattr(torch, dtype))
    nn, (X, y, kernels) = torch.nn, setting(name)

    class Rows(nn.Module):
        """Flatten as Keras does, channels last."""

        def forward(self, x):
            return x.movedim(1, -1).flatten(1)

    stack, flat = [], False
    for kernel in kernels:
        if kernel.ndim == 2 and not flat:
            stack, flat = [*stack, Rows()], True
        if kernel.ndim == 4:
            layer = nn.Conv2d(*kernel.shape[2:], 3, padding="same")
            weight = kernel.transpose(3, 2, 0, 1)
        else:
            layer, weight = nn.Linear(*kernel.shape), kernel.T
        layer.weight.data = torch.tensor(weight, dtype=torch.get_default_dtype()).contiguous()
        layer.bias.data.zero_()
        stack += [layer, nn.Tanh()]
    model = nn.Sequential(*stack[:-1])
    images = torch.tensor(X).to(torch.get_default_dtype()).movedim(-1, 1)
    options = {"fisher_type": "type-2", "separate_weight_and_bias": False}

    def made(kind):
        operator = kind(
            model, nn.CrossEntropyLoss(), list(model.parameters()), [(images, torch.tensor(y))],
            check_deterministic=False, **options,
        )  # fmt: skip
        operator.compute_kronecker_factors()
        if kind is EKFACLinearOperator:
            operator.compute_eigenvalue_correction()
        else:
            inverse = KFACInverseLinearOperator(operator, damping=1e-3, use_exact_damping=True)
            inverse @ torch.ones(operator.shape[1])
        return operator

    return {
        "K-FAC": lambda: made(KFACLinearOperator),
        "E-KFAC": lambda: made(EKFACLinearOperator),
    }


def spectrum(operator) -> list[float]:
    dense = operator @ np.eye(operator.shape[0])
    return np.linalg.eigvalsh(np.asarray(dense)).tolist()


def serve(options) -> None:
    """Print the eigenvalues of a small network's factors, or time those of a large one."""
    make = peer_factors if options.serve == "peer" else hesscomp_factors
    if options.network == SMALL:
        found = {kind: factor() for kind, factor in make(SMALL, "float64").items()}
        if options.serve == "peer":
            found = {kind: operator.to_scipy() for kind, operator in found.items()}
        print(json.dumps({kind: spectrum(operator) for kind, operator in found.items()}))
        return
    factors = make(options.network, "float32")
    for factor in factors.values():
        factor()
    print(json.dumps({}), flush=True)
    for _ in sys.stdin:
        times = {}
        for kind, factor in factors.items():
            begun = time.process_time()
            factor()
            times[kind] = time.process_time() - begun
        print(json.dumps(times), flush=True)


def sides(name: str, options) -> list[subprocess.Popen]:
    return [
        subprocess.Popen(
            [python, __file__, "--serve", side, "--network", name, "--peer", options.peer],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for side, python in (("hesscomp", sys.executable), ("peer", options.peer))
    ]  # fmt: skip


def check(options) -> None:
    """Refuse to time what is not the same."""
    ours, theirs = (json.loads(side.communicate()[0]) for side in sides(SMALL, options))
    for kind in KINDS:
        left, right = np.array(ours[kind]), np.array(theirs[kind])
        error = np.abs(left - right).max() / left.max()
        print(f"{kind} of the {SMALL}: {len(left)} eigenvalues, largest difference {error:.1e}")
        if not error < 1e-10:
            sys.exit(f"the eigenvalues of {kind} differ: {error:.1e} of the largest")


def compare(name: str, options) -> None:
    servers, rounds = sides(name, options), []
    for server in servers:
        if not server.stdout.readline():
            sys.exit("a side of the comparison did not start")
    for _ in range(options.rounds):
        both = []
        for server in servers:
            print(file=server.stdin, flush=True)
            both.append(json.loads(server.stdout.readline()))
        rounds.append(both)
    for server in servers:
        server.stdin.close()
        server.wait()
    values = {}
    for kind in KINDS:
        times = np.array([[side[kind] for side in both] for both in rounds])
        values[f"{kind}, s"] = float(np.median(times[:, 0]))
        ratio = float(np.median(times[:, 1] / times[:, 0]))
        values[f"curvlinops over ours, {kind}"] = ratio
    print(name, {title: f"{value:.3g}" for title, value in values.items()}, flush=True)
    if not options.trial:
        row = f"{name}, {NETWORKS[name][0]:,} rows, float32, 1 thread, processor time"
        record.save("kfac", row, values, (*record.ENGINE, "hesscomp/factors"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", metavar="PYTHON", required=True, help="with torch, curvlinops")
    parser.add_argument("--network", choices=NETWORKS)
    parser.add_argument("--rounds", type=int, default=5)
    record.add_option(parser)
    parser.add_argument("--serve", choices=("hesscomp", "peer"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options)
    check(options)
    for name in [options.network] if options.network else list(NETWORKS)[1:]:
        compare(name, options)


if __name__ == "__main__":
    main()
