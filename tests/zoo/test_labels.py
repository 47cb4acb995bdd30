"""Classes by number or name, and prompts whose noise does not hang on their place."""

from __future__ import annotations

import numpy as np
import pytest

from jaxsearch.zoo.labels import class_prompts, split_numbers

NAMES = ["tabby, tabby cat", "goldfinch", "Teapot", "crane", "crane"]


def test_numbers_and_names_are_classes():
    prompts = class_prompts(5, NAMES).prompts(["1", "Tabby Cat", "tabby, tabby cat", "teapot", "4"])
    np.testing.assert_array_equal(prompts.cond, [1, 0, 0, 2, 4])
    np.testing.assert_array_equal(prompts.context["label"], prompts.cond)
    assert prompts.cond.dtype == np.int32


def test_the_second_request_for_a_class_has_noise_of_its_own():
    read, ids = class_prompts(5, NAMES)
    np.testing.assert_array_equal(ids(["2", "0", "teapot"]), [2, 0, 7])
    np.testing.assert_array_equal(ids(["teapot", "2"]), [2, 7])
    np.testing.assert_array_equal(read(["teapot", "2"]).ids, [2, 7])


def test_a_model_that_is_told_nothing():
    prompts = class_prompts(0).prompts(["any", "any"])
    np.testing.assert_array_equal(prompts.ids, [0, 1])
    np.testing.assert_array_equal(prompts.cond, [0, 0])
    assert not prompts.context


@pytest.mark.parametrize(
    ("num_classes", "names", "text", "remedy"),
    [
        (5, NAMES, "5", "take a number from 0 to 4 or the name of a class"),
        (5, [], "tabby", "take a number from 0 to 4$"),
        (0, [], "0", "it is told nothing, so ask for 'any'"),
    ],
)
def test_what_is_no_class_is_refused(num_classes, names, text, remedy):
    with pytest.raises(ValueError, match=f"'{text}' is no prompt of this model: {remedy}"):
        class_prompts(num_classes, names).prompts([text])


def test_a_name_of_two_classes_is_refused():
    with pytest.raises(ValueError, match="'Crane' is the name of the classes 3 and 4: take a numb"):
        class_prompts(5, NAMES).prompts(["Crane"])


def test_a_number_stands_for_its_class_whatever_others_are_named():
    assert class_prompts(3, ["2", "1", "0"]).prompts(["2"]).cond == 2


def test_numbers_are_split_and_names_are_not():
    assert split_numbers("3, 7 9") == ["3", "7", "9"]
    assert split_numbers("tabby, tabby cat") == ["tabby, tabby cat"]
    assert split_numbers("") == [""]
