"""pretrain.py --tokenizer=dalle."""

import pytest

import keras_splitmask as ks
from tests.recipes.pretrain_test import SMALL


@pytest.mark.backend
@pytest.mark.long
def test_words_of_dalle(here, dvae, tmp_path, lines):
    encoder, decoder = dvae(vocabulary=16)
    for weights in (f"{encoder}", f"{encoder},{decoder}"):
        workdir = tmp_path / f"of {weights.count(',') + 1}"
        end = here(
            "pretrain",
            "--dataset=sample",
            f"--workdir={workdir}",
            *SMALL,
            "--tokenizer=dalle",
            f"--dalle_weights={weights}",
        )
        assert end.status == 0 and not end.err
        assert lines(workdir / "metrics.jsonl")[-1]["word_perplexity"] > 1
        assert [path.name for path in workdir.glob("pictures/*.png")] == ["inpainting_dalle.png"]
        assert f"--dalle_weights={weights}\n" in (workdir / "run.flags").read_text()
        encoder.rename(tmp_path / "elsewhere.npz")  # a run's model needs the files no more
        tokenizer = ks.interchange.load_model(workdir).tokenizer
        (tmp_path / "elsewhere.npz").rename(encoder)
        assert tokenizer.same_words(ks.tokenizers.Dalle.from_files((8, 8, 1), 4, encoder)) and bool(
            tokenizer.decoder
        ) == ("," in weights)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tokenizer=dalle"], "Expected --dalle_weights: ENCODER_FILE[,DECODER_FILE] of --tokenizer=dalle"),
        (
            ["--tokenizer=dalle", "--dalle_weights=nowhere.pkl"],
            "File not found: nowhere.pkl, expected to hold the weights of DALL-E's encoder; download"
            " https://cdn.openai.com/dall-e/encoder.pkl and",
        ),
        (
            ["--tokenizer=dalle", "--dalle_weights={0},nowhere.pkl"],
            "download https://cdn.openai.com/dall-e/decoder.pkl and pass the path",
        ),
        (
            ["--tokenizer=dalle", "--dalle_weights={0},{1},{1}"],
            "Expected --dalle_weights=ENCODER_FILE[,DECODER_FILE], received 3 files.",
        ),
        (
            ["--tokenizer=dalle", "--dalle_weights={0}", "--word_resolution=half"],
            "--tokenizer=dalle does not read --word_resolution; leave it out.",
        ),
        (
            ["--tokenizer=dalle", "--dalle_weights={0}", "--vocabulary=8192"],
            "Expected --vocabulary=16, the number of words in",
        ),
        (["--tokenizer=dalle", "--dalle_weights={0}", "--dalle_sha256=12ab"], "expected 12ab"),
        (["--tokenizer=dalle", "--dalle_weights={1}"], "received {1}, which does not fit: "),
        (
            ["--tokenizer=kmeans", "--dalle_weights={0}"],
            "Expected --tokenizer=dalle with --dalle_weights, received --tokenizer=kmeans",
        ),
    ],
)
def test_bad_weights_of_dalle_end_in_one_line(refused, dvae, tmp_path, flags, message):
    files = [str(path) for path in dvae(vocabulary=16)]
    flags = [flag.format(*files) for flag in flags]
    assert message.format(*files) in refused(
        "pretrain", "--dataset=sample", f"--workdir={tmp_path / 'run'}", *SMALL, *flags
    )
