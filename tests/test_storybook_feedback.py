"""What distillation hears about the strokes on a student's own pictures."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from canvas.storybook import distil, feedback, generator, text
from canvas.storybook.vocabulary import CONCEPTS, INDEX
from sae.errors import FeaturebrushError

TREE, SEA = INDEX["tree"], INDEX["sea"]


def logit(chance):
    return torch.logit(torch.as_tensor(chance), eps=1e-6)


def stroke(concept, strength, cells=4):
    laid = torch.zeros(1, len(CONCEPTS), 16, 16)
    laid[0, concept, 2 : 2 + cells, 3 : 3 + cells] = strength
    return laid


@given(st.floats(0, 3), st.floats(0, 3))
def test_a_stronger_stroke_asks_for_more(a, b):
    weak, strong = feedback.response(torch.tensor(sorted([a, b]))).tolist()
    assert 0 <= weak <= strong < 1
    assert feedback.response(torch.tensor(0.0)) == 0


@given(st.sampled_from([TREE, SEA]), st.floats(0.2, 2.8), st.floats(0.01, 0.99))
def test_nothing_is_missing_where_just_what_was_asked_for_is_read(concept, strength, other):
    strokes = stroke(concept, strength)
    asked = feedback.response(torch.tensor(strength))
    read = torch.full((1, len(CONCEPTS), 16, 16), logit(asked).item())
    assert feedback.unanswered(read, strokes).item() == pytest.approx(0, abs=1e-4)
    elsewhere = read.clone()
    elsewhere[strokes == 0] = logit(other)
    assert feedback.unanswered(elsewhere, strokes).item() == pytest.approx(0, abs=1e-4)
    if abs(other - asked) > 0.05:
        assert feedback.unanswered(torch.full_like(read, logit(other).item()), strokes) > 1e-3


def test_a_thing_need_not_fill_its_stroke_but_a_sea_does():
    asked = feedback.response(torch.tensor(2.0))
    for concept, enough in ((TREE, True), (SEA, False)):
        read = torch.full((1, len(CONCEPTS), 16, 16), -8.0)
        read[0, concept, 2:4, 3:7] = logit(asked)
        assert (feedback.unanswered(read, stroke(concept, 2.0)) < 1e-4) == enough


def test_without_strokes_nothing_is_missing():
    read = torch.zeros(2, len(CONCEPTS), 16, 16, requires_grad=True)
    assert feedback.unanswered(read, torch.zeros_like(read)).item() == 0


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    tokenizer = text.train_tokenizer(["a tree", "the sea"])
    text.save_tokenizer(tokenizer, tmp_path_factory.mktemp("run") / "tokenizer")
    torch.manual_seed(0)
    tiny = generator.GeneratorConfig(width=32, outer_width=16, layers=2, depth=1)
    found = generator.build_modules(tiny, tokenizer).eval()
    found["palette"].see(torch.randn(2, 32, 16, 16), torch.rand(2, len(CONCEPTS), 16, 16) > 0.5)
    assert isinstance(tokenizer, CLIPTokenizer)
    empty = torch.tensor(tokenizer([""], padding="max_length", max_length=text.LENGTH)["input_ids"][0])
    return found.requires_grad_(False), empty


def painted(modules, strokes):
    """The losses of a student on them, and the student."""
    teacher, empty = modules
    student = copy.deepcopy(teacher["unet"]).requires_grad_(True)
    reader = feedback.LatentReader.of(teacher, empty, feedback.FeedbackConfig())
    batch = generator.Batch(torch.zeros(1, 8, 32, 32), empty[None], strokes > 0, strokes)
    return distil.Distillation(teacher, student, empty, distil.DistilConfig(), reader), batch


@pytest.mark.parametrize("last", range(distil.STEPS))
def test_what_is_read_teaches_the_student_and_nobody_else(modules, last):
    losses, batch = painted(modules, stroke(TREE, 1.5))
    losses.unanswered(batch, last).backward()
    assert any(p.grad.any() for p in losses.student.parameters() if p.grad is not None)
    assert all(p.grad is None for p in [*losses.teacher.parameters(), *losses.reader.parameters()])


def test_what_is_read_is_the_picture_that_was_kept_but_for_the_strokes_reach(modules, monkeypatch):
    losses, batch = painted(modules, stroke(TREE, 2.0))
    seen = []
    nothing = torch.zeros_like(batch.strokes)
    monkeypatch.setattr(losses.reader, "forward", lambda latents: seen.append(latents) or nothing)
    for strength in (0.5, 2.0):
        torch.manual_seed(3)
        losses.unanswered(batch._replace(strokes=stroke(TREE, strength)), 3)
    reached = distil.reach(batch.strokes, 32) > 0
    changed = (seen[0] != seen[1]).any(1, keepdim=True)
    assert changed.any() and not (changed & ~reached).any()


def test_guidance_grows_with_a_stroke_and_ends_with_its_reach():
    weak, strong = (distil.near(stroke(TREE, strength), 32) for strength in (0.5, 2.0))
    assert torch.allclose(4 * weak, strong)
    assert torch.equal(weak > 0, distil.reach(stroke(TREE, 0.5), 32) > 0)
    assert distil.reach(stroke(TREE, 0.5), 32).max() == 1


def test_distillation_says_what_it_lacks(modules, tmp_path):
    teacher, empty = modules
    with pytest.raises(FeaturebrushError, match=r"no feedback\.pt: run the stage feedback"):
        feedback.trained(tmp_path, teacher, empty)
