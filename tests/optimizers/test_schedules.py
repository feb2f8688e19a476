"""Schedules of the learning rate, against Keras' own."""

import keras
import numpy as np
import pytest
from test_optimizers import synthetic

import hesscomp as hc
from hesscomp.errors import InputError
from hesscomp.optimizers.catalogue import make_optimizer
from hesscomp.optimizers.loop import train
from hesscomp.optimizers.options import Saving, Stopping
from hesscomp.optimizers.schedules import Schedule, as_rate, parse_rate
from hesscomp.runs.checkpoint import load_checkpoint, save_checkpoint

pytestmark = pytest.mark.serial
THEIRS = keras.optimizers.schedules
SCHEDULES = [
    THEIRS.CosineDecay(0.5, 20, alpha=0.25),
    THEIRS.CosineDecay(0.0, 20, warmup_target=0.5, warmup_steps=6),
    THEIRS.ExponentialDecay(0.5, 7, 0.5),
    THEIRS.ExponentialDecay(0.5, 7, 0.5, staircase=True),
    THEIRS.InverseTimeDecay(0.5, 7, 2.0),
    THEIRS.InverseTimeDecay(0.5, 7, 2.0, staircase=True),
    THEIRS.PolynomialDecay(0.5, 20, 0.125, power=2.0),
    THEIRS.PiecewiseConstantDecay([5, 10], [0.5, 0.25, 0.125]),
]


@pytest.mark.parametrize("theirs", SCHEDULES, ids=lambda each: type(each).__name__)
def test_the_rates_are_those_of_keras(theirs):
    ours = as_rate(theirs)
    assert as_rate(keras.optimizers.Adam(theirs).get_config()["learning_rate"]) == ours
    assert parse_rate(str(ours)) == ours
    steps = [0, 1, 5, 6, 7, 10, 11, 14, 19, 20, 26, 30]
    rates = [float(theirs(step)) for step in steps]
    np.testing.assert_allclose([ours.at(step) for step in steps], rates, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("make, words", [
    (lambda: Schedule("cosine", 0.1), "the schedule cosine needs steps"),
    (lambda: Schedule("constant", 0.1, power=2.0), "constant has no power"),
    (lambda: Schedule("linear", 0.1), "`shape` must be one of constant, cosine"),
    (lambda: Schedule("piecewise", 0.1, changes=((5, 0.1), (5, 0.2))), "rising steps"),
    (lambda: parse_rate("cosine:0.1,stesp=3"), "did you mean `steps`"),
    (lambda: parse_rate("cosine:0.1,steps=x"), "is no learning rate; give a number"),
    (lambda: parse_rate("fast"), "fast: is no learning rate"),
    (lambda: hc.SGD(THEIRS.PolynomialDecay(0.1, 3, cycle=True)), "with `cycle` has no counter"),
    (lambda: hc.SGD([0.1]), "not a list"),
    (lambda: hc.SGD(0.0), "learning_rate must be above 0"),
])  # fmt: skip
def test_what_is_no_schedule_is_refused(make, words):
    with pytest.raises(InputError, match=words):
        make()


def test_a_step_takes_the_rate_of_its_number(world):
    optimizer = make_optimizer("sgd", ("learning_rate=piecewise:0.5,1=0.25,3=0.125", "decay=1"))
    found = train(synthetic(world), optimizer, stopping=Stopping(max_steps=5))
    rates = found.history.column("learning_rate")[1:]
    np.testing.assert_array_equal(rates, [0.5, 0.5 / 2, 0.25 / 3, 0.25 / 4, 0.125 / 5])


def test_a_run_with_a_schedule_resumes_to_the_bit(world, tmp_path):
    problem, optimizer = synthetic(world), hc.AdamW("cosine:0.1,steps=8,warmup=3")
    whole = train(problem, optimizer, stopping=Stopping(max_steps=10))
    saving = Saving(tmp_path, every=2)
    train(problem, optimizer, stopping=Stopping(max_steps=5), saving=saving)
    resumed = train(problem, optimizer, stopping=Stopping(max_steps=10), saving=saving)
    np.testing.assert_array_equal(resumed.x, whole.x)
    with pytest.raises(InputError, match="name another folder"):
        train(problem, hc.AdamW("cosine:0.1,steps=9,warmup=3"), saving=saving)


@pytest.mark.parametrize("optimizer", [hc.SGD(0.1), hc.Adam(0.1)], ids=["sgd", "adam"])
def test_checkpoints_from_before_weight_decay_resume(world, tmp_path, optimizer):
    problem, saving = synthetic(world), Saving(tmp_path)
    train(problem, optimizer, stopping=Stopping(max_steps=2), saving=saving)
    saved = load_checkpoint(tmp_path / "checkpoint.h5")
    saved.facts["optimizer"] = saved.facts["optimizer"].replace(", weight_decay 0.0", "")
    save_checkpoint(saved, tmp_path, world)
    assert train(problem, optimizer, stopping=Stopping(max_steps=3), saving=saving).steps == 3
