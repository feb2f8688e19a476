"""Calibration, ROC and paths of ridges, with scikit-learn's numbers."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

import hesscomp as hc
from hesscomp.analysis.calibration import _happened, calibration, roc
from hesscomp.analysis.linear import predictions_figure
from hesscomp.errors import InputError
from hesscomp.linear.model import Predictions
from hesscomp.optimizers.ridge_path import RidgePath


def test_the_area_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    p = np.round(rng.random(200), 2)  # with ties
    y = rng.random(200) < p
    false, true, area = roc(p, y)
    assert area == pytest.approx(roc_auc_score(y, p), rel=1e-12)
    expected = roc_curve(y, p, drop_intermediate=False)
    np.testing.assert_allclose(np.column_stack([false, true]), np.column_stack(expected[:2]))
    predicted, share = calibration(p, y)
    assert predicted.mean() == pytest.approx(p.mean()) and share.mean() == pytest.approx(y.mean())


def test_pictures_of_a_model_and_a_path(tmp_path):
    X, y = np.arange(8.0)[:, None], np.array([0, 0, 1, 0, 1, 0, 1, 1])
    model = hc.fit_linear((X, y))
    figure = hc.plot(model, tmp_path / "roc.png", data=(X, y))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Calibration", "ROC"]
    with pytest.raises(InputError, match="goes with a model of logistic regression"):
        hc.plot(hc.fit_linear((X, y), "least-squares"), data=(X, y))
    with pytest.raises(InputError, match="hold both"):
        hc.plot(model, data=(X, 0 * y))
    path = RidgePath(
        np.array([1.0, 0.1]), np.ones((2, 3)), np.ones(2), np.array([[1.0, 0.5], [1.1, 0.4]]),
        penalized=2,
    )  # fmt: skip
    drawn = hc.plot(path, tmp_path / "path.png")
    assert len(drawn.axes) == 2 and path.best == path.simplest == 1


def test_labels_of_any_kind_and_predictions_of_several_classes():
    for y, names in (([1, 2, 1], ("1", "2")), (np.array(["a", "b", "a"], object), ("a", "b"))):
        np.testing.assert_array_equal(_happened(np.asarray(y), names), [False, True, False])
    several = Predictions(np.ones((2, 3)), np.ones((2, 3)), np.ones((2, 3)))
    with pytest.raises(InputError, match="of 3 classes cannot be drawn"):
        predictions_figure(several)
