"""Which orders of steps are legal, and what is said of the others."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelm import recipe_order
from edgelm.errors import RecipeError
from edgelm.recipe_steps import Cluster, Distill, Finetune, LowBit, Mixed, Prune, Qat, Quantize, Share, Step, Structure
from edgelm.spec import Encoding

INT8 = Encoding.INT8
QUANTIZE, GPTQ = Quantize(INT8, INT8, INT8), Quantize(INT8, INT8, INT8, compensate="gptq")
QAT, PQAT, CQAT = (Qat(INT8, INT8, INT8, preserve=kept) for kept in ((), ("sparsity",), ("clusters",)))
PCQAT = Qat(INT8, INT8, INT8, preserve=("sparsity", "clusters"))
KEEPING = Cluster(preserve_sparsity=True)
TERNARY, TIE = LowBit("ternary"), Share("tie")


@pytest.mark.parametrize(
    "steps",
    [
        (QUANTIZE,),
        (Distill(), Structure(), TIE, Prune(), KEEPING, PCQAT),
        (Finetune(), Distill(), Finetune(), TIE, Structure(), Finetune(), Prune(), QUANTIZE),
        (Prune(), PQAT),
        (Prune(), Prune(sparsity=0.8), QUANTIZE),
        (Cluster(), CQAT),
        (Structure(), TERNARY),
        (Finetune(), GPTQ),
        (Finetune(), Mixed()),
        (PCQAT,),  # what an earlier run pruned and clustered
    ],
)
def test_legal_orders(steps: tuple[Step, ...]) -> None:
    recipe_order.check(steps)


@pytest.mark.parametrize(
    ("steps", "problem", "corrected"),
    [
        ((QAT, Structure()), "qat fixes the grid of the weights, so it comes last", (Structure(), QAT)),
        ((QUANTIZE, Finetune()), "quantize fixes the grid of the weights, so it comes last", (Finetune(), QUANTIZE)),
        ((Prune(), Structure(), QUANTIZE), "structure changes the shapes, so it comes before prune", (Structure(), Prune(), QUANTIZE)),
        ((Structure(), Distill()), "distill trains a new model, so it comes before structure", (Distill(), Structure())),
        ((Cluster(), Prune()), "prune moves weights off the shared values, so it comes before cluster", (Prune(), KEEPING)),
        ((Prune(), Finetune(), QUANTIZE), "finetune moves every weight, so it comes before prune", (Finetune(), Prune(), QUANTIZE)),
        ((QUANTIZE, QAT), "quantize and qat each fix the grid of the weights, so there is one of them at most", (QAT,)),
        ((Prune(), Cluster()), "cluster after prune has to preserve zeros", (Prune(), KEEPING)),
        ((Prune(), QAT), "qat after prune has to preserve sparsity", (Prune(), PQAT)),
        ((Cluster(), QAT), "qat after cluster has to preserve clusters", (Cluster(), CQAT)),
        ((Prune(), KEEPING, PQAT), "qat after cluster has to preserve clusters", (Prune(), KEEPING, PCQAT)),
        ((Prune(), KEEPING, QAT), "qat after prune and cluster has to preserve sparsity and clusters", (Prune(), KEEPING, PCQAT)),
        ((Cluster(), TERNARY), "lowbit makes two or three values of its own and loses what cluster made", (TERNARY,)),
        ((Prune(), TERNARY), "lowbit makes two or three values of its own and loses what prune made", (TERNARY,)),
        ((Prune(), GPTQ), "quantize with compensate = 'gptq' moves weights that prune fixed", (Prune(), QUANTIZE)),
        ((Cluster(), Mixed(compensate="gptq")), "moves weights that cluster fixed", (Cluster(), Mixed())),
    ],
)
def test_illegal_orders_are_refused_with_the_legal_one(steps: tuple[Step, ...], problem: str, corrected: tuple[Step, ...]) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe_order.check(steps)
    assert problem in caught.value.what
    assert caught.value.allowed == recipe_order.LEGAL
    assert caught.value.fix == f"take {recipe_order.described(corrected)}"
    assert recipe_order.corrected(steps)[0] == corrected


def test_everything_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        recipe_order.check((QUANTIZE, QAT, Prune()))
    assert caught.value.what == (
        "illegal order quantize -> qat -> prune: quantize and qat each fix the grid of the weights, so there is one of them at most; "
        "qat fixes the grid of the weights, so it comes last; qat after prune has to preserve sparsity"
    )
    assert caught.value.fix == 'take prune -> qat (preserve = ["sparsity"])'


ANY = [QUANTIZE, GPTQ, QAT, PQAT, PCQAT, TERNARY, Mixed(), Prune(), Cluster(), KEEPING, Structure(), TIE, Distill(), Finetune()]


@settings(deadline=None)  # a busy machine takes a second for a millisecond now and then
@given(st.lists(st.sampled_from(ANY), max_size=7))
def test_the_corrected_list_is_legal_and_a_legal_list_stays(steps: list[Step]) -> None:
    right, problems = recipe_order.corrected(steps)
    recipe_order.check(right)
    assert bool(problems) == (right != tuple(steps))
