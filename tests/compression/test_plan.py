"""Plans of compressions against what compressions then did, on 1 to 4 ranks."""

import json
import sys
import time

import numpy as np
import pytest
from marks import slow_but
from oracles import Sharded

from hesscomp.cli.main import main
from hesscomp.compression import compress
from hesscomp.compression.counting import Machine, unknown
from hesscomp.compression.options import default_method
from hesscomp.compression.plan import Request, make_plan
from hesscomp.curvature import calibration
from hesscomp.curvature.sharded import ShardedOperator
from hesscomp.errors import InputError
from hesscomp.operators.matrix import MatrixOperator
from hesscomp.options import format_bytes, parse_bytes
from hesscomp.parallel.world import World
from hesscomp.workflows.planning import PlanRequest, plan

N, RANK = 50_000, 50
CASES = [
    (method, layout, power, dtype, panel)
    for method in ("nystrom", "eigh", "krylov")
    for layout, power, dtype, panel in (
        ("replicated", 1, "float32", 16),
        ("rows", 0, "float64", 7),
    )
]

# Compresses a diagonal in as many shares as ranks by each case, and says what it cost.
RUN = """
import json, sys
import numpy as np
from hesscomp.compression import compress
from hesscomp.curvature.sharded import ShardedOperator
from hesscomp.parallel.resources import peak_bytes, reset_peak, resident_bytes
from hesscomp.parallel.world import World

class Slopes(ShardedOperator):
    def __init__(self, n, world, dtype):
        super().__init__(n, world, psd=True, dtype=dtype)
        self.share = (1 / np.sqrt(np.arange(1.0, n + 1)) / world.size).astype(dtype)
    def _local(self, V):
        return self.share[:, None] * V

world, (n, rank, cases) = World(), json.loads(sys.argv[1])
idle = resident_bytes()
for method, layout, power, dtype, panel in cases:
    operator, gathered = Slopes(n, world, dtype), world.ledger.words_gathered
    reset_peak()
    more = {"panel": panel} if layout == "rows" else {}
    more |= {"residual_tolerance": 1e-30} if method == "krylov" else {}
    made = compress(operator, rank, method=method, layout=layout, power=power, **more).provenance
    cost = [made.columns, made.passes, made.words_reduced, world.ledger.words_gathered - gathered]
    memory = max(world.gather((peak_bytes(), idle)))
    if world.rank == 0:
        print(json.dumps([cost, memory]))
"""


@pytest.mark.parametrize("ranks", slow_but([1, 3], [1, 2, 3, 4]))
def test_words_exactly_and_memory_within_30_percent(run_command, mpiexec, ranks):
    launcher = [] if ranks == 1 else [mpiexec, "-n", ranks]
    done = run_command([*launcher, sys.executable, "-c", RUN, json.dumps([N, RANK, CASES])])
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(CASES)
    for case, (cost, (peak, idle)) in zip(CASES, found, strict=True):
        method, layout, power, dtype, panel = case
        request = Request(
            **{"n": N, "rows": 1, "rank": RANK, "ranks": ranks, "method": method},
            **{"layout": layout, "power": power, "dtype": dtype},
            panel=panel if layout == "rows" else None,
            product_bytes=0,
        )
        plan = make_plan(request, Machine(program=idle))
        words = [plan.columns, plan.passes, plan.words_reduced, plan.words_gathered]
        assert words == cost, case
        assert sum(plan.memory.values()) == pytest.approx(peak, rel=0.3), case


class Flat(ShardedOperator):
    """Eigenvalues that decay too slowly for krylov to end early."""

    def _local(self, V):
        return V / np.sqrt(np.arange(1.0, self.n + 1))[:, None].astype(V.dtype)


@pytest.mark.parametrize("layout", ["replicated", "rows"])
@pytest.mark.parametrize(
    ("method", "n", "rank", "how"),
    [
        ("nystrom", 300, 20, {"power": 0}),
        ("nystrom", 300, 20, {"power": 2, "oversample": 0}),
        ("eigh", 300, 20, {"power": 0}),
        ("eigh", 300, 30, {"power": 2, "oversample": 3}),
        ("krylov", 300, 40, {"power": 0, "block": 7}),
        ("krylov", 400, 10, {"power": 2}),
        ("krylov", 100, 23, {"power": 1}),  # the last block is narrower: the space is full
        ("krylov", 100, 45, {"oversample": 0, "power": 0, "block": 40}),
    ],
)
def test_the_ledger_of_a_plan_is_that_of_a_run(layout, method, n, rank, how):
    plan = make_plan(Request(n=n, rows=1, ranks=1, rank=rank, method=method, layout=layout, **how))
    world = World.serial()
    if method == "krylov":
        how = {**how, "residual_tolerance": 1e-30}
    flat = Flat(n, world, psd=True, dtype="float32")
    made = compress(flat, rank, method=method, layout=layout, **how).provenance
    ledger = world.ledger
    assert (plan.method, plan.columns, plan.passes) == (made.method, made.columns, made.passes)
    assert plan.words_reduced == made.words_reduced
    assert plan.words_gathered == ledger.words_gathered


def test_a_plan_takes_no_memory_whatever_the_sizes():
    """Its blocks would take 10^15 bytes, its small matrices 10^12."""
    sizes = {"n": 10**9, "rows": 1, "ranks": 2, "layout": "rows", "panel": 10**6}
    for method in ("nystrom", "eigh", "krylov"):
        block = 10**5 if method == "krylov" else None
        plan = make_plan(Request(rank=10**5, block=block, method=method, **sizes))
        assert plan.method == method and plan.words_reduced > 10**14
    with pytest.raises(InputError, match="2000010 columns are more than can be planned"):
        Request(rank=2 * 10**6, method="eigh", **sizes)


def test_a_block_is_refused_where_compress_refuses_it():
    with pytest.raises(InputError, match="`block`"):
        make_plan(Request(n=10**6, rows=1, ranks=1, rank=9, method="eigh", block=8))


@pytest.mark.parametrize(
    "work",
    [
        lambda x: x.T @ x,
        lambda x: np.sqrt(x + x[0]) * 2 - np.eye(4, like=x),
        lambda x: x[:2, None] > x[:, 1:2],
        lambda x: (x**2).sum(axis=1),
        lambda x: np.mean(x, axis=-1),
        lambda x: x.max(initial=0.0),
        lambda x: np.all(x[0] <= 1),
        lambda x: np.linalg.norm(x @ np.ones((4, 3)), axis=0),
        lambda x: np.linalg.norm(x),
        lambda x: np.hstack([np.zeros((4, 2)), x]),
        lambda x: np.block([[x, x[:, :1]], [x[:2].T.T, np.ones((2, 1))]]),
        lambda x: np.append(np.cumsum(x[0]), 0.0),
        lambda x: np.sort(x[0][x[0] > 0]),
        lambda x: x[0, 0],
    ],
)
def test_what_is_made_of_unknown_arrays_has_its_shape(work):
    found, made = work(unknown(4, 4)), work(np.full((4, 4), np.nan))
    assert np.shape(found) == np.shape(made) and np.asarray(found).dtype == made.dtype


def test_words_where_the_matrix_is_assembled():
    plan = make_plan(Request(n=100, rows=10, rank=50, ranks=2, method="krylov"))
    assert (plan.method, plan.columns, plan.words_reduced) == ("dense", 100, 100**2)


@pytest.mark.parametrize("method", ["nystrom", "eigh", "krylov", "auto"])
@pytest.mark.parametrize("rank", [20, 23, 40, 80, 90])
@pytest.mark.parametrize("power", [0, 1])
@pytest.mark.parametrize("psd", [False, True])
def test_the_matrix_is_assembled_where_compress_does(method, rank, power, psd):
    if method == "nystrom" and not psd:
        return
    matrix = MatrixOperator(np.diag(0.9 ** np.arange(100)), World.serial(), psd=psd)
    provenance = compress(matrix, rank, method=method, power=power).provenance
    chosen = default_method(psd, power) if method == "auto" else method
    how = {"method": chosen, "auto": method == "auto", "power": power}
    plan = make_plan(Request(n=100, rows=10, rank=rank, ranks=1, **how))
    assert plan.method == provenance.method
    assert plan.columns == provenance.columns or (chosen == "krylov" and plan.method != "dense")


@pytest.mark.parametrize("method", ["eigh", "auto"])
@pytest.mark.parametrize("psd", [False, True])
@pytest.mark.parametrize("which", ["LA", "SA"])
def test_a_plan_for_one_end_of_the_spectrum(method, psd, which):
    sizes = {"n": 300, "rank": 8, "power": 1, "method": method, "which": which}
    planned = plan(PlanRequest(rows=10, ranks=1, psd=psd, **sizes))
    del sizes["n"]
    matrix = Sharded(np.diag(0.9 ** np.arange(300)), World.serial(), psd)
    made = compress(matrix, **sizes).provenance
    assert (planned.method, planned.request.which) == (made.method, made.which)
    assert planned.columns == made.columns or made.method == "krylov"
    assert planned.words_reduced == made.words_reduced or made.method == "krylov"


def test_layout_goes_by_memory():
    """As compress decides: replicated sketches of (4 + q) n l numbers in half of what is left."""
    request = Request(n=10**6, rows=10**6, rank=90, ranks=8, row_bytes=800)
    needed = 8 * 10**6 * 100 * 5
    left = 700 * 2**20 + 800 * 10**6 / 8
    assert make_plan(request, Machine(memory=2.01 * needed + left)).layout == "replicated"
    assert make_plan(request, Machine(memory=1.99 * needed + left)).layout == "rows"


def test_time_by_the_model():
    """One product of 10 columns of 1,000 float64 numbers: 3 messages and 7/8 of the bytes twice."""
    machine = Machine(latency=1e-3, bandwidth=1e6, flops=1e30)
    request = Request(
        **{"n": 1000, "rows": 80, "rank": 10, "oversample": 0, "power": 0, "ranks": 8},
        **{"method": "nystrom", "layout": "replicated", "dtype": "float64", "row_seconds": 1e-2},
    )
    seconds = make_plan(request, machine).seconds
    assert seconds["communication"] == pytest.approx(2 * (3e-3 + 7 / 8 * 80_000 / 1e6))
    assert seconds["products"] == pytest.approx(10 * 10 * 1e-2)
    alone = make_plan(Request(n=1000, rows=80, rank=10, ranks=1), machine)
    assert alone.seconds["communication"] == 0


def test_4096_ranks(capsys):
    command = ["plan", "--n", "1e8", "--rows", "1e6", "--rank", "200", "--ranks", "4096"]
    assert main([*command, "--memory", "32G"]) == 0
    said = capsys.readouterr().out
    assert "layout         rows" in said and "does not fit" not in said
    assert "616 columns" in said  # 19 blocks of 32, and 8 probes
    assert "--ntasks=4096" in said
    assert main(command) == 3
    said = capsys.readouterr().out
    assert "does not fit" in said and "ask SLURM" not in said
    assert "give each rank more memory (--memory), or take more --ranks or a smaller --rank" in said
    plan = make_plan(Request(n=10**8, rows=10**6, rank=200, ranks=4096), Machine(memory=2**35))
    assert plan.words_reduced == pytest.approx(616e8, rel=1e-3)
    # DESIGN: memory O(n b + n k / P).
    assert plan.memory["sketch"] == pytest.approx(6.3 * 8 * 1e8 * 210 / 4096, rel=1e-2)
    assert plan.memory["product"] == pytest.approx(2 * 1e8 * 16 * 4 + 2**32, rel=1e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--n", "10"], "give either --n and --rows, or one of --problem"),
        (["--n", "10", "--rows", "5", "--data", "adult"], "give either --n and --rows"),
        ([], "give either --n and --rows"),
        (["--n", "10", "--rows", "5", "--", "--operator", "ggn"], "--operator: goes with"),
        (["--data", "adult", "--", "--run", "r"], "--run: has no effect on a plan"),
        (["--data", "adult", "--rate", "1e9"], "--rate goes with --n"),
        (["--n", "9", "--rows", "5", "--panel", "2"], "--layout auto; take --layout rows"),
        (["--n", "9", "--rows", "5", "--rate", "1e9", "--row-seconds", "1"], "give one of them"),
    ],
)
def test_refuses_in_one_line(capsys, words, message):
    assert main(["plan", "--ranks", "4", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1


@pytest.mark.ranks(most=2)
def test_a_problem_is_loaded_and_timed(world, capsys):
    assert main(["plan", "--data", "adult", "--rank", "20", "--ranks", "64"]) == 0
    said = capsys.readouterr().out
    if world.rank > 0:
        assert said == ""
        return
    assert "n = 109, 32,561 rows, rank 20" in said
    measured = f"measured here; ranks: {world.size}, threads of each: 1, columns of a product: 30"
    assert measured in said
    assert ("need two ranks to be measured" in said) == (world.size == 1)
    assert "method         nystrom" in said


class Slow(ShardedOperator):
    """A product takes a hundredth of a second for each column."""

    def _local(self, V):
        time.sleep(0.01 * V.shape[1])
        return V


@pytest.mark.parametrize(
    ("long", "largest", "least", "most"),
    [(1e9, 1e9, 50, 50), (0.2, 1e9, 2, 20), (1e9, 8e3, 10, 10), (1e-3, 1e9, 1, 1)],
)
def test_a_calibration_takes_what_fits_the_time(monkeypatch, long, largest, least, most):
    monkeypatch.setattr(calibration, "LONG", long)
    monkeypatch.setattr(calibration, "LARGEST", largest)
    monkeypatch.setattr(calibration, "REPEATS", 1)
    cost = calibration.product_cost(Slow(100, World.serial(), psd=True), 50)
    assert least <= cost.columns <= most and cost.seconds >= 0.01 * cost.columns


@pytest.mark.parametrize(
    ("text", "size"), [("512", 512), ("1.5K", 1536), ("2G", 2**31), ("1 TiB", 2**40)]
)
def test_sizes(text, size):
    assert parse_bytes(text) == size
    assert parse_bytes(format_bytes(size)) == size


def test_a_wrong_size_is_named():
    with pytest.raises(InputError, match="-3G: is not a number of bytes"):
        parse_bytes("-3G")


# Plans a compression of a Keras model's curvature from what it measures, compresses, and says both.
MODEL = """
import json, sys
from hesscomp.cli import plan as planning
from hesscomp.cli.main import main
from hesscomp.parallel.resources import peak_bytes, reset_peak
from hesscomp.parallel.world import World

def words(plan):
    cost = [plan.layout, plan.method, plan.columns, plan.words_reduced]
    return json.dumps([cost, plan.memory])

planning.plan_text = words
world, (own, others) = World(), json.loads(sys.argv[1])
model = ["--model", "m.keras", "--loss", "softmax-cross-entropy", "--data", "d.npz"]
plan = ["plan", *model, "--ranks", str(world.size), "--memory", "64G", *own, "--", *others]
assert main(plan) == 0
reset_peak()
assert main(["compress", *model, *own, *others, "--out", "f.h5", "--json", "r.json"]) == 0
peak = max(world.gather(peak_bytes()))
if world.rank == 0:
    made = json.load(open("r.json"))["provenance"]
    names = ("layout", "method", "columns", "words_reduced")
    print(json.dumps([[made[name] for name in names], peak]))
"""
SKETCH = ["--rank", "26", "--oversample", "4", "--memory-limit", "256M"]
MODEL_CASES = [
    ([*SKETCH, "--layout", "replicated", "--method", "nystrom"], ["--operator", "ggn"]),
    ([*SKETCH, "--layout", "rows", "--method", "eigh"], ["--operator", "hessian"]),
    ([*SKETCH, "--layout", "rows", "--method", "nystrom"], ["--operator", "ggn"]),
]


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("case", MODEL_CASES, ids=lambda case: "-".join(case[0][-3::2]))
def test_a_keras_model_as_planned(run_command, mpiexec, tmp_path, ranks, case):
    """Of 203,530 parameters, from the plan's own measurements."""
    from hesscomp.curvature.tensorflow import keras

    layers = [keras.Input((784,)), keras.layers.Dense(256, "tanh"), keras.layers.Dense(10)]
    keras.Sequential(layers).save(tmp_path / "m.keras")
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((200, 784), "f4"), rng.integers(0, 10, 200)
    np.savez(tmp_path / "d.npz", X=X, y=y)
    launcher = [] if ranks == 1 else [mpiexec, "-n", ranks]
    command = [*launcher, sys.executable, "-c", MODEL, json.dumps(case)]
    done = run_command(command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[[")]
    (plan, memory), (cost, peak) = found
    assert plan == cost
    assert sum(memory.values()) == pytest.approx(peak, rel=0.3), memory
