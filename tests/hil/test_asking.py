"""What ``fine_tune`` is asked for is done, or refused in a sentence; nothing is taken amiss."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from snu_plugin.accelerator import IDEAL, PCM, Accelerator, Chip, Program
from snu_plugin.compiler import compile
from snu_plugin.hil import Online, fine_tune, loss_of

STEPS, COUNT, INPUTS, CLASSES = 7, 8, 6, 3


def program(chip: Chip = IDEAL) -> Program:
    draw = np.random.default_rng(0)
    one = np.ones(CLASSES)
    neurons = nir.LIF(tau=5e-3 * one, r=4 * one, v_leak=0 * one, v_threshold=one, v_reset=0 * one)
    nodes = {
        "in": nir.Input(np.array([INPUTS])),
        "fc": nir.Affine(draw.normal(0, 0.5, (CLASSES, INPUTS)), np.zeros(CLASSES)),
        "out": nir.LI(neurons.tau, neurons.r, neurons.v_leak),
        "end": nir.Output(np.array([CLASSES])),
    }
    edges = [("in", "fc"), ("fc", "out"), ("out", "end")]
    return compile(nir.NIRGraph(nodes, edges), chip, dt=1e-3)


def chip_of(chip: Chip = IDEAL) -> Accelerator:
    made = Accelerator(program(chip))
    made.program()
    return made


def batches(count: int = 3, sequences: int = COUNT) -> list[tuple[Tensor, Tensor]]:
    draw = Generator().manual_seed(0)
    return [
        (
            (torch.rand(STEPS, sequences, INPUTS, generator=draw) < 0.4).float(),
            torch.randint(CLASSES, (sequences,), generator=draw),
        )
        for _ in range(count)
    ]


def mean(output: Tensor, target: Tensor) -> Tensor:
    return cross_entropy(output.sum(0), target)


def losses(given: list[Any], **how: Any) -> list[float]:
    return [record.loss for record in fine_tune(chip_of(PCM), given, **how)]


@pytest.mark.parametrize("kind", [torch.int32, torch.int16, torch.uint8])
def test_classes_are_whole_numbers_of_any_type(kind: torch.dtype) -> None:
    assert losses([(x, y.to(kind)) for x, y in batches()]) == losses(batches())


def test_arrays_of_numpy_are_taken_as_tensors_are() -> None:
    assert losses([(x.numpy(), y.numpy()) for x, y in batches()]) == losses(batches())


@pytest.mark.parametrize("loss", [None, "regression", "likelihood"])
def test_one_hot_classes_are_no_targets_of_every_step(loss: str | None) -> None:
    """Torch would spread them over all steps, and teach the network to fire at each."""
    hot = [(x, nn.functional.one_hot(y, CLASSES).float()) for x, y in batches()]
    with pytest.raises(ValueError, match=r"shape \(8, 3\), outputs \(7, 8, 3\); give a target for"):
        fine_tune(chip_of(), hot, loss)


def test_targets_of_every_step_are_those_of_a_regression() -> None:
    assert losses([(x, torch.zeros(STEPS, COUNT, CLASSES)) for x, _ in batches()])


@pytest.mark.parametrize(
    ("loss", "kind", "says"),
    [
        (lambda y, t: cross_entropy(y.sum(0), t, reduction="none"), TypeError, "such as a mean"),
        (lambda y, t: mean(y, t).detach(), ValueError, "the loss has no gradient"),
        (lambda y, t: (y > 0).sum(), ValueError, "the loss has no gradient"),
        (nn.CrossEntropyLoss(), ValueError, r"outputs (T, B, ...) of shape (7, 8, 3) and targets"),
        (lambda y, t, w: w * mean(y, t), TypeError, "missing 1 required positional argument: 'w'"),
        (lambda y, t: mean(y, t + 7), IndexError, "targets torch.int64 of shape (8,): Target"),
    ],
)
def test_a_loss_that_cannot_teach_is_refused_in_a_sentence(
    loss: Callable[..., Tensor], kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind, match=re.escape(says)) as refused:
        fine_tune(chip_of(), batches(), loss)
    assert "\n" not in str(refused.value)


def test_an_error_of_its_own_that_a_loss_raises_is_passed_on() -> None:
    class Mine(ValueError): ...

    def loss(output: Tensor, target: Tensor) -> Tensor:
        raise Mine("no")

    with pytest.raises(Mine, match=r"^no$"):
        fine_tune(chip_of(), batches(), loss)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"learning_rate": 0.1}, "'learning_rate'; did you mean digital_lr?"),
        ({"lr": 0.1}, "'lr'; did you mean digital_lr?"),
        ({"epochs": 3}, "'epochs'; give the batches as often"),
        ({"holdback": 0.1}, "'holdback'; did you mean hold_back?"),
        ({"optimizer": "adam"}, "optimizer is 'adam'; give a class of torch.optim"),
        ({"optimizer": torch.optim.LBFGS}, "give one that steps by a gradient"),
        ({"optimizer": partial(torch.optim.LBFGS, max_iter=2)}, "steps by a gradient"),
        ({"gradient": Online}, "give None, through time, or Online()"),
        ({"refresh": True}, "refresh is True; give a Refresh"),
        ({"progress": 1}, "progress is 1; give True, False"),
        ({"teacher": lambda x: None}, "the teacher returned None; it must return outputs"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_an_argument_of_another_name_or_kind_is_refused_with_what_to_give(
    how: dict[str, Any], says: str
) -> None:
    with pytest.raises(TypeError, match=re.escape(says)):
        fine_tune(chip_of(), batches(), **how)


@pytest.mark.parametrize("board", [None, nn.Linear(2, 2), program()])
def test_what_is_no_chip_is_refused(board: Any) -> None:
    with pytest.raises(TypeError, match="give an Accelerator that holds a network"):
        fine_tune(board, batches())


def test_it_learns_where_gradients_are_switched_off() -> None:
    with torch.no_grad():
        off = losses(batches())
    assert off == losses(batches())


def test_it_is_refused_where_no_gradient_can_be_kept() -> None:
    with torch.inference_mode(), pytest.raises(RuntimeError, match="call fine_tune outside it"):
        fine_tune(chip_of(), batches())


def test_the_unit_of_logits_is_found_on_more_than_a_first_small_batch() -> None:
    """A single sequence told right asks for logits as large as can be, and so for no others."""
    given = batches(60, 1)
    history = fine_tune(chip_of(), given, hold_back=0.5)
    assert history.before is not None
    assert history.before < 2  # log(3) is what knowing nothing costs


def test_a_loss_by_name_is_one_of_the_tables_own() -> None:
    described = loss_of("count", torch.zeros(2, dtype=torch.int8), taught=False)
    output = torch.zeros(4, 2, 3)
    assert float(described.function(output, torch.tensor([0, 2], dtype=torch.int8))) > 0


def test_a_chip_and_its_tuning_are_the_same_under_autocast() -> None:
    x, _ = batches(1)[0]

    def both() -> tuple[Tensor, Tensor, list[float]]:
        made = chip_of(PCM)
        made.calibrate()
        output = made.run(x)[0]
        return output, made.registers["fc.gain"], losses(batches(), loss=mean)

    plain = both()
    with torch.autocast("cpu", torch.bfloat16):
        cast = both()
    assert torch.equal(plain[0], cast[0])
    assert torch.equal(plain[1], cast[1])
    assert plain[2] == cast[2]


def test_triples_are_refused_with_where_weights_of_sequences_go() -> None:
    triples = [(x, y, torch.ones(len(y))) for x, y in batches()]
    with pytest.raises(TypeError, match=r"tuples of 3; .* as in \(x, \(y, weights\)\)"):
        fine_tune(chip_of(), triples, mean)


def test_lists_of_labels_are_refused_where_a_loss_takes_tensors() -> None:
    lists = [(x, y.tolist()) for x, y in batches()]
    with pytest.raises(TypeError, match=r"'rate' takes tensors; give torch.tensor\(target\)"):
        fine_tune(chip_of(), lists, "rate")


def test_inputs_with_the_batch_first_are_asked_about() -> None:
    turned = [(x.transpose(0, 1), y) for x, y in batches()]
    with pytest.raises(ValueError, match=r"time first: x\.transpose\(0, 1\)\?"):
        fine_tune(chip_of(), turned, mean, hold_back=0)


def test_a_teacher_teaches_as_it_would_be_used_and_stays_as_it_was() -> None:
    teacher = nn.Sequential(nn.Linear(INPUTS, CLASSES), nn.Dropout(0.5), nn.BatchNorm1d(CLASSES))
    teacher[1].eval()

    def outputs(x: Tensor) -> Tensor:
        y: Tensor = teacher(x.flatten(0, 1)).view(*x.shape[:2], -1)
        return y

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = teacher

        def forward(self, x: Tensor) -> Tensor:
            return outputs(x)

    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    taught = losses([x for x, _ in batches()], teacher=Whole())
    modes = [module.training for module in teacher]
    after = teacher.state_dict()
    assert modes == [True, False, True]
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    teacher.eval()
    assert taught == losses([x for x, _ in batches()], teacher=outputs)


def test_names_of_rules_and_chips_of_several_outputs_are_refused_in_words() -> None:
    with pytest.raises(TypeError, match=r"the text 'mixed'; give a value, such as MixedPrecision"):
        fine_tune(chip_of(), batches(), mean, "mixed")  # type: ignore[arg-type]
    nodes = {
        "in": nir.Input(np.array([INPUTS])),
        "a": nir.Linear(np.ones((CLASSES, INPUTS))),
        "b": nir.Linear(np.ones((2, INPUTS))),
        "y": nir.Output(np.array([CLASSES])),
        "z": nir.Output(np.array([2])),
    }
    edges = [("in", "a"), ("in", "b"), ("a", "y"), ("b", "z")]
    made = Accelerator(compile(nir.NIRGraph(nodes, edges), IDEAL, dt=1e-3))
    made.program()
    with pytest.raises(ValueError, match=r"the outputs y, z; .* needs a graph with one of each"):
        fine_tune(made, batches(), mean)


def test_sparse_inputs_tune_as_dense_ones_do() -> None:
    sparse = [(x.to_sparse(), y) for x, y in batches()]
    assert losses(sparse, loss=mean) == losses(batches(), loss=mean)


def test_data_made_in_inference_mode_tune_as_others_do() -> None:
    with torch.inference_mode():
        made = batches()
    assert losses(made, loss=mean) == losses(batches(), loss=mean)
