"""What to do about what cannot be received: the end of an error, by the function that made it."""

from __future__ import annotations

import re

RANDOM = frozenset(
    {
        *("alpha_dropout", "bernoulli", "bernoulli_", "dropout", "dropout1d", "dropout2d"),
        *("dropout3d", "exponential_", "feature_alpha_dropout", "feature_dropout", "normal"),
        *("gumbel_softmax", "multinomial", "normal_", "poisson", "rand", "rand_like", "randint"),
        *("randint_like", "randn", "randn_like", "randperm", "rrelu", "uniform_"),
    }
)
"""Functions of torch that draw random numbers."""

SMOOTH = frozenset(
    {
        *("arctan", "atan", "celu", "cos", "elu", "erf", "exp", "expm1", "gelu", "group_norm"),
        *("gru", "hardsigmoid", "instance_norm", "layer_norm", "log", "log1p", "log_softmax"),
        *("logsigmoid", "logsumexp", "lstm", "mish", "multi_head_attention_forward", "norm"),
        *("normalize", "pow", "rms_norm", "rnn_tanh", "rsqrt", "scaled_dot_product_attention"),
        *("selu", "sigmoid", "silu", "sin", "softmax", "softplus", "sqrt", "square", "std"),
        *("tanh", "var"),
    }
)
"""Functions of which no arrangement of sums, factors and thresholds gives the values."""

BOUNDS = frozenset({"clamp", "clip", "clamp_min", "clamp_max", "hardtanh", "relu6"})
"""Functions that keep values between bounds."""

PRODUCTS = frozenset({"baddbmm", "bmm", "div", "einsum", "matmul", "mm", "mul", "truediv"})

PLACES = frozenset(
    {
        *("getitem", "movedim", "moveaxis", "permute", "select", "swapaxes", "transpose", "t"),
        *("flip", "fliplr", "flipud", "roll", "rot90", "pixel_shuffle", "pixel_unshuffle"),
        *("unbind", "split", "chunk", "unflatten"),
    }
)
"""Functions that take values elsewhere."""


def advice(problem: str, returned: bool) -> str:
    """Return what to say of a value that cannot be received because of ``problem``.

    It may be ``returned`` by the model, or received by a layer.
    """
    found = re.match(r"_*(\w+?)_*\(\) of (.*)", problem)
    name, of = found.groups() if found else ("", "")
    if name in RANDOM or f"{name}_" in RANDOM or problem.startswith("random numbers"):
        return (
            "it draws at random, also in evaluation, and a graph gives the same for the same "
            "input: draw outside (encode the data first), or leave it out where not self.training"
        )
    if name in SMOOTH:
        return "it is neither linear nor a threshold, as all that a graph is made of: " + (
            "return what it is made of, and apply it to what the graph gives"
            if returned
            else "leave it out, or apply it in front of the network"
        )
    if name in BOUNDS:
        return (
            "NIR has no node that bounds a value: leave it out, or let spikes alone be "
            "bounded (their sum by clamp(max=1)); refractory times leave as Norse's LIFRefracCell"
        )
    if name in PRODUCTS and " + " in of:
        return (
            "that is a product or quotient of two signals, and nodes multiply by constants; not "
            "yet supported but of spikes"
        )
    if name in PLACES:
        return (
            "batch and time come first, (T, B, ...) or (B, T, ...), or time last; features or "
            "channels may change places, also flattened ones; more is not yet supported, and NIR "
            "has no node that moves the pixels of maps: lay the data out so in front of the model"
        )
    if problem.startswith("steps that are not"):
        return (
            "NIR's graph is the same in every step, and its potentials begin at 0: make each as "
            "the others are made, with the same constants, and zeros in place of what the first "
            "has not yet; count a potential from its rest, and add constants to its input or "
            "threshold"
        )
    if problem.startswith("steps "):
        return "put steps that are made alike one behind the other, torch.stack along axis 0 or 1"
    if problem.startswith("spikes "):
        return "let the function that makes spikes give them itself (torch.autograd.Function)"
    return "not yet supported: use a module that has a rule, nn.Linear for what is linear"
