"""What callers may count on."""

from composer.core.composition import Composition
from composer.core.parameters import parameters_of
from composer.ui.api.arguments import mix_arguments

# As programs that call by position know them; what comes later goes behind.
ORDER = [
    *("prompt", "weights", "method", "strength", "bands", "blend", "scale", "contrast"),
    *("max_new_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "seed"),
    *("norm", "tokens", "live", "rank", "density", "core", "omega", "curves", "schedule"),
    *("top_adapters", "floor", "projection", "accept"),
]


def test_arguments_keep_their_places():
    assert list(mix_arguments())[: len(ORDER)] == ORDER


def test_every_parameter_of_a_composition_is_an_argument():
    assert set(parameters_of(Composition)) <= set(mix_arguments())
