"""--value_range: an encoder is fine-tuned and judged with the range that it was trained with."""

import numpy as np


def test_the_range_of_pre_training_is_that_of_fine_tuning(here, tmp_path, rng):
    arrays = {}
    for split in ("train", "test"):
        arrays[f"{split}_images"] = rng.integers(0, 4096, (12, 8, 8), "uint16")
        arrays[f"{split}_labels"] = np.arange(12) % 2
    np.savez(tmp_path / "deep.npz", **arrays)
    given = [f"--dataset=npz:{tmp_path / 'deep.npz'}", "--batch_size=4", "--steps=1"]
    run, tuned = tmp_path / "run", tmp_path / "tuned"

    plain = here(
        "pretrain",
        *given,
        "--method=random",
        "--size=vit_micro",
        "--patch_size=4",
        "--value_range=0,70",
        f"--workdir={tmp_path / 'clipped'}",
    )
    assert plain.status == 0 and "lie outside --value_range=0,70 and are clipped" in plain.out
    end = here(
        "pretrain",
        *given,
        "--method=random",
        "--size=vit_micro",
        "--patch_size=4",
        "--value_range=0,4095",
        f"--workdir={run}",
    )
    assert (
        end.status == 0
        and "--value_range" not in end.out
        and "--value_range=0,4095\n" in (run / "run.flags").read_text()
    )

    end = here("finetune", *given, f"--init_from={run}", f"--workdir={tuned}")
    assert end.status == 0 and "--value_range=0,4095, as in the run of --init_from" in end.out
    assert "--value_range=0,4095\n" in (tuned / "run.flags").read_text()
    assert (
        here("finetune", *given, f"--init_from={run}", f"--workdir={tuned}").status == 0
    )  # the same command, so the same run

    end = here(
        "probe",
        f"--dataset=npz:{tmp_path / 'deep.npz'}",
        "--epochs=1",
        f"--init_from={tuned / 'model.keras'}",
        "--value_range=0,65535",
    )
    assert end.status == 0 and "--value_range=0,65535 differs from the run of --init_from, which has 0,4095" in end.out
    assert "a small part of the 0 to 65535 of --value_range" in end.out

    end = here("probe", f"--dataset=npz:{tmp_path / 'deep.npz'}", f"--init_from={run}", "--value_range=white")
    assert (
        end.status == 2
        and "Expected --value_range as two numbers, the first less than the second, such as 0,4095, received white."
        in end.err
    )
