"""Transformer classifiers as judges: a tiny real one from a folder and from a Hub, and what can be wrong."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import RobertaConfig, RobertaForSequenceClassification

from composer.adapters.hub import HubError
from composer.cli.main import main
from composer.core.errors import ComposerError
from composer.evaluation.judges.serialization import save_judges
from composer.evaluation.judges.training import PLANS, train_judges
from composer.evaluation.judges.transformer_judge import FIELD, Classifier, load_hub_judge, parse_classifiers
from composer.training.data import Row
from tests.adapters.conftest import hub  # noqa: F401 - a fixture
from tests.evaluation import toys
from tests.tools import tiny

TEXTS = ["A lovely film.", "Awful!", "The coach and the goal of the season were what they were."]
# RoBERTa counts positions from the padding's id on, so it has to be its usual one: here the byte of a quote.
PAD = 1


def save(folder: Path, labels=("NEGATIVE", "POSITIVE"), vocabulary=260) -> RobertaForSequenceClassification:
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=66,
        pad_token_id=PAD,
        id2label=dict(enumerate(labels)),
    )
    model = RobertaForSequenceClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    model.save_pretrained(folder)
    tokenizer = tiny.tokenizer()
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(PAD)
    tokenizer.save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A classifier of two sentiments."""
    path = tmp_path_factory.mktemp("classifier")
    save(path)
    return path


def by_hand(model, texts, labels):
    """One text at a time, so without padding; at most 64 tokens, one a byte."""
    said = []
    for text in texts:
        ids = tiny.tokenizer()(text)["input_ids"][:64]
        with torch.no_grad():
            said.append(labels[model(torch.tensor([ids])).logits[0].argmax()])
    return said


def test_a_folder_judges_as_the_model_does(tmp_path):
    model = save(tmp_path)
    judge = load_hub_judge(Classifier("sentiment", str(tmp_path)), device="cpu")
    texts = [f"{text} {number}" for number in range(11) for text in TEXTS] + ["long " * 100]
    said = judge(texts)
    assert said == by_hand(model, texts, ["negative", "positive"]) and len(set(said)) == 2
    assert (judge.attribute, judge.labels, judge.name) == (
        "sentiment",
        ("negative", "positive"),
        tmp_path.name,
    )
    assert judge([]) == []


@pytest.mark.parametrize(
    ("attribute", "labels", "order", "said"),
    [
        (
            "topic",
            ("World", "Sports", "Business", "Sci/Tech"),
            (),
            ["world", "sports", "business", "sci-tech"],
        ),
        ("topic", [f"LABEL_{i}" for i in range(4)], FIELD[-1].order, list(FIELD[-1].order)),
        ("sentiment", ("Neg", "Neutral", "POS"), (), ["negative", "neutral", "positive"]),
    ],
)
def test_labels_are_read_as_ours(tmp_path, attribute, labels, order, said):
    model = save(tmp_path, labels)
    judge = load_hub_judge(Classifier(attribute, str(tmp_path), order=order), device="cpu")
    texts = [f"{text} {number}" for number in range(9) for text in TEXTS]
    assert judge(texts) == by_hand(model, texts, said) and len(set(judge(texts))) > 1


def test_it_is_measured_on_rows_it_is_given(folder):
    judge = load_hub_judge(Classifier("sentiment", str(folder)), device="cpu")
    assert judge.scores == () and "not measured" in str(judge)
    rows = [Row(text, said) for text, said in zip(TEXTS, judge(TEXTS), strict=True)]
    other = {"negative": "positive", "positive": "negative"}
    tests = {"mine": rows, "half": [*rows[:2], *(Row(text, other[label]) for text, label in rows[:2])]}
    judge = load_hub_judge(Classifier("sentiment", str(folder)), tests, device="cpu")
    assert [(score.file, score.rows, score.accuracy) for score in judge.scores] == [
        ("mine", 3, 1),
        ("half", 4, 0.5),
    ]
    assert "half 50.0% of 4" in str(judge)


def spoil(folder, file, change):
    config = json.loads((folder / file).read_text())
    change(config)
    (folder / file).write_text(json.dumps(config))


def without(folder, part):
    """The classifier without the weights whose names begin so."""
    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if not name.startswith(part)}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def tiny_vocabulary(folder):
    """A sound classifier that knows five tokens, beside a tokenizer that has hundreds."""
    save(folder, vocabulary=5)


BAD = {
    "labels of something else": (
        lambda f: spoil(f, "config.json", lambda c: c.update(id2label={0: "cat", 1: "dog"}))
    ),
    "code of its own": lambda f: spoil(f, "config.json", lambda c: c.update(auto_map={"AutoConfig": "x.Y"})),
    "a tokenizer with code": lambda f: spoil(
        f, "tokenizer_config.json", lambda c: c.update(auto_map={"a": "x.Y"})
    ),
    "no config": lambda f: (f / "config.json").unlink(),
    "a config that is no JSON": lambda f: (f / "config.json").write_text("["),
    "a config that is a list": lambda f: (f / "config.json").write_text("[]"),
    "weights cut short": lambda f: (f / "model.safetensors").write_bytes(b"\0" * 9),
    "pickled weights alone": lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
    "another shape": lambda f: spoil(f, "config.json", lambda c: c.update(hidden_size=64)),
    "no head": lambda f: without(f, "classifier"),
    "a tokenizer of more tokens": tiny_vocabulary,
    "an unknown type": lambda f: spoil(f, "config.json", lambda c: c.update(model_type="mine")),
}


@pytest.mark.parametrize("spoilt", BAD.values(), ids=BAD)
def test_a_bad_folder_is_one_sentence(tmp_path, spoilt):
    save(tmp_path)
    spoilt(tmp_path)
    with pytest.raises(ComposerError, match=r"; choose (another )?one") as fault:
        load_hub_judge(Classifier("sentiment", str(tmp_path)), device="cpu")
    assert str(tmp_path) not in str(fault.value) and "\n" not in str(fault.value)


def test_a_repository_is_asked_for_over_the_hub(hub, folder):  # noqa: F811
    hub.add("owner/tiny", {path.name: path.read_bytes() for path in folder.iterdir()})
    judge = load_hub_judge(Classifier("sentiment", "owner/tiny"), device="cpu")
    assert judge(TEXTS) == load_hub_judge(Classifier("sentiment", str(folder)), device="cpu")(TEXTS)
    assert judge.name == "owner/tiny"
    with pytest.raises(HubError, match="no repository owner/none"):
        load_hub_judge(Classifier("sentiment", "owner/none"))


def test_the_option_names_classifiers(folder):
    assert parse_classifiers("") == FIELD
    assert parse_classifiers(f"sentiment={folder}, topic=owner/name@abc") == (
        Classifier("sentiment", str(folder)),
        Classifier("topic", "owner/name", "abc"),
    )
    assert parse_classifiers(f"sentiment={FIELD[0].source}") == FIELD[:1]
    with pytest.raises(ComposerError, match="two classifiers called 'owner/name'"):
        parse_classifiers("topic=owner/name@a, topic=owner/name@b")
    for text in ("owner/name", "mood=owner/name", "topic="):
        with pytest.raises(ComposerError, match="ATTRIBUTE=ID or FOLDER"):
            parse_classifiers(text)


# --- python -m composer evaluate --hub-judges ----------------------------------------------------


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A catalog with one adapter, a prompt and stored judges."""
    path = tmp_path_factory.mktemp("evaluate")
    tiny.model("llama").save_pretrained(path / "base")
    tiny.tokenizer().save_pretrained(path / "base")
    tiny.adapter(path / "positive", "llama", 1, r=2)
    (path / "adapters.yaml").write_text(
        "default: tiny\nbases:\n  tiny: {id: tiny/llama, folder: base, "
        "adapters: {positive: {source: positive}}}\n"
    )
    (path / "prompts.txt").write_text("The film\nA meal\n")
    save_judges(train_judges(toys.write(path / "data"), PLANS.values()), path / "judges")
    return path


def evaluate(project, *more):
    places = {"--catalog": "adapters.yaml", "--prompts": "prompts.txt", "--out": "out"}
    argv = [word for option, name in places.items() for word in (option, str(project / name))]
    return main(["evaluate", *argv, "--seeds", "1", *more])


def test_two_judges_vote_and_are_compared(project, folder, capsys):
    stored = ["--judges", str(project / "judges")]
    assert evaluate(project, *stored, "--hub-judges", f"sentiment={folder}", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    [panel] = answer["panels"]
    ours, reference = panel["held_out"]
    assert (panel["attribute"], ours, reference) == ("sentiment", "sentiment (word counts)", folder.name)
    [opinion] = panel["opinions"]
    both = [opinion["shares"][name] for name in (ours, reference)]
    assert opinion["shares"][ours] == answer["rows"][1]["shares"]["positive"]["value"]
    assert opinion["majority"] <= min(both)  # of two, both
    [pair] = panel["agreements"]
    assert 0 <= pair["same"] <= 1
    table = (project / "out/table.md").read_text()
    assert f"{reference}: accuracy not measured here" in table and "agree on" in table and "| SLOR |" in table
    assert str(folder) not in table


def test_with_labelled_text_the_classifier_is_measured_too(project, folder, capsys):
    assert (
        evaluate(project, "--data", str(project / "data"), "--hub-judges", f"sentiment={folder}", "--json")
        == 0
    )
    [panel] = json.loads(capsys.readouterr().out)["panels"]
    held_out = panel["held_out"][folder.name]
    assert {score["file"]: score["rows"] for score in held_out}["sst_cased/test.jsonl.gz"] == 48


def test_without_the_hub_ours_go_on(project, hub, capsys):  # noqa: F811
    hub.closing.set()
    stored = ["--judges", str(project / "judges")]
    assert evaluate(project, *stored, "--hub-judges", "sentiment=owner/none", "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["panels"] == []
    assert "going on without owner/none: The Hub has no repository owner/none" in err


def test_judges_are_loaded_or_trained_never_both(project, capsys):
    assert evaluate(project, "--judges", "x", "--data", "y") == 2
    assert "either --judges" in capsys.readouterr().err
