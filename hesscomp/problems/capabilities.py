"""What only some problems can do, by name: a problem declares it, and callers ask for it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Capability:
    """Something that a problem may offer beyond objective, gradient and Hessian.

    A problem that has it names it in `Problem.capabilities` and has its `members`: methods and
    attributes. The `remedy` ends the error message for a problem that lacks it. New ones need no
    registration: make one, declare it, and ask for it with `Problem.can` or `Problem.require`.
    """

    name: str
    members: tuple[str, ...]
    remedy: str

    def __str__(self) -> str:
        return self.name


OTHER_PRECONDITIONER = "take another preconditioner"
OTHER_OPERATOR = "take the Hessian or another operator"

INITIAL_POINT = Capability("initial point", ("initial",), "start from zero or from a file")
SAMPLING = Capability("sampling", ("sampled",), "use all rows")
SQUARED_GRADIENTS = Capability("squared gradients", ("squared_gradients",), OTHER_PRECONDITIONER)
HESSIAN_DIAGONAL = Capability("diagonal of the Hessian", ("hessian_diagonal",), "estimate it")
ROW_GRADIENTS = Capability(
    "gradients of single rows",
    ("row_gradients", "row_squares", "rows_here"),
    "compute them yourself, or write the loss as a FunctionProblem",
)
KRONECKER_FACTORS = Capability(
    "Kronecker factors", ("kronecker", "kronecker_matrices"), OTHER_PRECONDITIONER
)
SHARD_GRADIENTS = Capability("gradients of a shard", ("loss_and_gradient",), OTHER_OPERATOR)
GAUSS_NEWTON = Capability(
    "Gauss-Newton matrix", ("gauss_newton",), "take the Hessian, or an optimizer that uses it"
)
GAUSS_NEWTON_ROWS = Capability(
    "rows of the Gauss-Newton matrix", ("gauss_newton_rows", "least_squares"), "take products"
)
FISHER = Capability("Fisher matrix", ("fisher",), OTHER_OPERATOR)
EMPIRICAL_FISHER = Capability("empirical Fisher matrix", ("empirical_fisher",), OTHER_OPERATOR)
MONTE_CARLO_FISHER = Capability(
    "Monte Carlo Fisher matrix", ("monte_carlo_fisher",), OTHER_OPERATOR
)
ROW_OUTPUTS = Capability(
    "outputs of rows",
    ("outputs", "output_terms"),
    "leave leverage and the spread of predictions out",
)
DATA_SLOPES = Capability("derivatives by the data", ("data_slopes",), "leave the data out")
REDRAWING = Capability("points redrawn each step", ("redrawn",), "use the same rows in each step")
TEST_ROWS = Capability("test rows", ("over",), "leave the test rows out")
CLASSIFICATION = Capability("classification", ("right_predictions",), "judge it by its loss")
PREDICTION = Capability("prediction", ("output",), "compute its predictions yourself")
KERAS_WEIGHTS = Capability(
    "Keras weights", ("read_weights", "set_fixed"), "take the point from a .npy file"
)
KERAS_MODEL = Capability("Keras model", ("save_model",), "write the point to a .npy file")
KNOWN_SOLUTION = Capability("known solution", ("solution",), "compare with what you know yourself")
PICTURE = Capability("picture of the solution", ("picture",), "draw its `output` yourself")
MARGINS = Capability(
    "margins",
    ("margins", "known_margins", "evaluate", "losses_along", "curvature_at", "shard"),
    "take its objectives and curvature at each point again",
)
