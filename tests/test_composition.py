"""Refusals: one line that names the key, the bad value and what would do. And the names of cells."""

import pytest

from fourfold.composition import cell_hash, cell_name, compose, plain
from fourfold.errors import Refused

WRONG = {
    "benchmark=digitz": ["benchmark=digitz", "digits", "did you mean digits?"],
    "hardware=a1000": ["hardware=a1000", "did you mean a100?"],
    "setting=class_incrmental": ["did you mean class_incremental?"],
    "method=ewcc": ["method=ewcc", "did you mean ewc?"],
    "method/rule=backprob": ["did you mean backprop?"],
    "scale=big": ["scale=big", "auto, full, smoke"],
    "tracking=wandb": ["tracking=wandb", "local, off, server"],
    "until=never": ["until=never", "budget"],
    "optimizer=adagrad": ["optimizer=adagrad", "adamw"],
    "tuned=foo": ["tuned=foo", "off"],
    "benchmrk=digits": ["benchmrk=digits", "did you mean benchmark?"],
    "sed=1": ["sed=1", "did you mean seed?"],
    "method.nothing_like_this=1": ["method.nothing_like_this=1", "no such key"],
    "method=ewc method.strenght=1": ["method.strenght=1", "did you mean method.strength?"],
    "hardware.launcher.partion=x": ["did you mean hardware.launcher.partition?"],
    "seed=x": ["seed=x", "Integer"],
    "seed=-1": ["seed=-1", "between 0"],
    "seed=1.5": ["seed=1.5"],
    "batch=0": ["batch=0", "above 0"],
    "batch=many": ["batch=many", "auto or a whole number"],
    "precision=fp12": ["precision=fp12", "fp32"],
    "precision_policy=maybe": ["precision_policy=maybe", "exact, nearest"],
    "hardware=cpu precision=fp8": ["precision=fp8", "cpu", "precision_policy=nearest"],
    "strategy=magic": ["strategy=magic", "ddp"],
    "until.steps=0": ["until.steps=0", "between 1"],
    "until.steps=ten": ["until.steps=ten"],
    "optimizer.learning_rate=-1": ["optimizer.learning_rate=-1"],
    "hardware.devices=0": ["hardware.devices=0", "between 1"],
    "hardware=a100 hardware.capacity.devices=0": ["hardware.capacity.devices=0", "between 1"],
    "hardware=a100 hardware.memory=0": ["hardware.memory=0", "between 1"],
    "hardware=a100 hardware.bandwidth=-1": ["hardware.bandwidth=-1", "between 1"],
    "hardware=a100 hardware.power=0": ["hardware.power=0", "between 0.001"],
    "hardware=a100 hardware.power=nan": ["hardware.power=nan", "between 0.001"],
    "hardware=a100 hardware.peak.fp32=-5": ["hardware.peak.fp32=-5", "between 1"],
    "hardware=a100 hardware.peak.bf16=1e30": ["hardware.peak.bf16=1e+30", "between 1"],
    "hardware=a100 hardware.interconnect.network=0": ["hardware.interconnect.network=0", "between 1"],
    "calibration.matmul=0": ["calibration.matmul=0", "between 1e-06 and 1"],
    "calibration.reduction=1.5": ["calibration.reduction=1.5", "between 1e-06 and 1"],
    "calibration.launch=-1": ["calibration.launch=-1", "between 0 and 1"],
    "calibration.spread=-0.1": ["calibration.spread=-0.1", "between 0"],
    "size=7b": ["size=7b", "one size only"],
    "benchmark=llama size=9b": ["size=9b", "1b, 7b, 8b, 70b"],
    "method=ewc method.strength=abc": ["method.strength=abc", "a number"],
    "method=ewc method.strength=-1": ["method.strength=-1", "between 0"],
    "method=ewc method.fisher=guessed": ["method.fisher=guessed", "exact, sampled, empirical"],
    "method=replay method.memory=0": ["method.memory=0", "between 1"],
    "method=replay method.memory=1.5": ["method.memory=1.5", "a whole number"],
    "method=replay method.memory=null": ["method.memory=None", "a whole number"],
    "setting=online method=avalanche setting.protocol=[prequential]": [
        "setting.protocol=prequential",
        "method avalanche drives its own loop",
        "setting.protocol=[matrix]",
    ],
    **{
        f"setting=task_incremental benchmark/model={model} method={method}": [
            f"method {method} needs a plain sequence of layers",
            "benchmark/model=mlp, conv, conv4, lenet or simple_vgg",
        ]
        for method, model in (("hat", "resnet18"), ("xdg", "resnet34"), ("pnn", "resnet18"))
    },
    **{
        f"setting=task_incremental benchmark.model.hidden=[] method={method}": [
            f"benchmark.model.hidden=[]: method {method} works on hidden layers"
        ]
        for method in ("hat", "xdg", "pnn")
    },
    "method=mir method.candidates=1": ["method.candidates=1", "between 2"],
    **{
        f"method={method} method.{key}": [
            f"method.{key}",
            "must be a list of whole numbers between 1 and",
            "one or more",
        ]
        for method in ("dgr", "bi_r", "cn_dpm")
        for key in ("hidden=[]", "hidden=[0]", "hidden=400", "hidden=[1.5]", "hidden=[true]")
    },
    "method=cn_dpm method.added=[]": ["method.added=[]", "one or more"],
    **{
        f"benchmark=mnist method={method} benchmark.data.normalise=[[0.13],[0.3]]": [
            "benchmark.data.normalise=[[0.13],[0.3]]",
            f"method {method} draws inputs in [0, 1]",
            "normalise=null",
        ]
        for method in ("dgr", "dgr_distill", "bi_r", "cn_dpm")
    },
    "benchmark=cifar10 benchmark/augmentation=flip_and_crop method=bic": [
        "benchmark/augmentation=flip_and_crop",
        "method bic tells samples held out by their pixels",
        "method.held_out=0",
    ],
    "setting.mixed=perhaps": ["setting.mixed=perhaps", "true or false"],
    "setting=class_incremental setting.contexts=11": ["setting.contexts=11", "10 classes"],
    "setting=domain_incremental setting.contexts=3": ["setting.contexts=3", "equal size"],
    "setting=class_incremental setting.class_order=[1,2]": ["setting.class_order=[1, 2]", "0 to 9 once"],
    "setting=class_incremental setting.class_order=sorted": ["setting.class_order=sorted", "natural"],
    "benchmark=text_domains setting=domain_incremental setting.split=permutation": [
        "setting.split=permutation",
        "domains",
    ],
    "benchmark=text_domains setting=domain_incremental setting.split=classes": ["text_domains has no classes"],
    "benchmark=text_domains setting=domain_incremental setting.rarest=0.5": ["setting.rarest=0.5", "could be rare"],
    "setting=class_incremental setting.phases=one method=ewc": [
        "setting.phases=one: setting class_incremental grants boundaries_train, which does not hold then",
        "setting.phases=contexts",
    ],
    "setting=continual setting.phases=contexts": ["setting.phases=contexts", "does not grant boundaries_train"],
    "setting=domain_incremental setting.outputs=all": ["setting.outputs=all", "grants shared_outputs"],
    "setting=class_incremental setting.outputs=shared": ["setting.outputs=shared", "does not grant shared_outputs"],
    "setting=task_incremental setting.mixed=true": ["setting.mixed=true", "one after another", "multi_task"],
    "setting=discrete setting.mixed=true": ["setting.mixed=true", "does not grant stationary", "setting.mixed=false"],
    "setting=multi_task setting.mixed=false": ["setting.mixed=false"],
    "setting=class_incremental setting.single_pass=true": ["single_pass=true", "grants multiple_epochs"],
    "setting=online setting.single_pass=false": ["single_pass=false", "does not grant multiple_epochs"],
    "setting=discrete setting.drift=0.1": ["setting.drift=0.1", "grants abrupt_contexts", "setting.drift=0.0"],
    "setting.protocol=[oracle]": ["setting.protocol", "matrix, prequential"],
    "benchmark=llama setting.protocol=[prequential]": ["prequential", "llama has no classes"],
    "hardware=cpu precision=fp16": ["precision=fp16", "hardware cpu has bf16, fp32"],
    "setting=continual method=ewc": ["ewc needs boundaries_train", "continual does not grant", "class_incremental"],
    "setting=class_incremental benchmark=matmul": ["needs", "matmul does not offer", "digits"],
    "benchmark=matmul method=finetune": ["finetune needs differentiable", "matmul"],
    "method=execute": ["execute needs kernel", "digits does not offer", "matmul"],
    "method=random method/rule=backprop": ["backprop needs trained_by_gradients", "random"],
    "method=finetune method/rule=none": ["finetune needs gradients", "backprop"],
    "benchmark=llama method=ewc": ["ewc needs classification", "llama"],
    "benchmark=_benchmark": ["no such benchmark"],
    "timeout=0": ["timeout=0"],
    "slots=0": ["slots=0", "between 1"],
    "mode=guess": ["mode=guess"],
    "benchmark.model.width=0": ["benchmark.model.width=0", "between 0.01"],
    "benchmark.model.hidden=[a]": ["benchmark.model.hidden", "a whole number"],
    "a=b=c": ["a"],
    "seed=[1": ["seed"],
}


@pytest.mark.parametrize("words", WRONG)
def test_a_refusal_is_one_line_with_key_value_and_choices(words: str) -> None:
    with pytest.raises(Refused) as refusal:
        compose(words.split())
    message = str(refusal.value)
    assert "\n" not in message
    for expected in WRONG[words]:
        assert expected in message


def test_what_the_user_writes_reaches_the_cell() -> None:
    cell = plain(compose(["benchmark=mnist", "method=ewc", "setting=class_incremental", "seed=3", "batch=17"]))
    assert (cell["seed"], cell["batch"], cell["method"]["name"]) == (3, 17, "ewc")


def test_tuned_values_lie_below_the_shell() -> None:
    words = ["benchmark=fashion_mnist", "method=ewc", "setting=class_incremental"]
    assert compose(words).method.strength == 1e9
    assert compose([*words, "method.strength=5"]).method.strength == 5
    assert compose([*words, "tuned=off"]).method.strength == 1000


@pytest.mark.parametrize(
    ("method", "split", "permuted"), [("ewc", 1e10, 100.0), ("online_ewc", 1e10, 100.0), ("si", 5e4, 10.0)]
)
def test_tuned_values_of_permuted_pictures_are_not_those_of_split_classes(
    method: str, split: float, permuted: float
) -> None:
    words = ["benchmark=mnist", f"method={method}"]
    assert compose([*words, "setting=domain_incremental"]).method.strength == split
    found = compose([*words, "setting=permuted"])
    assert (found.method.strength, found.setting.split, found.setting.contexts) == (permuted, "permutation", 10)
    asked = [*words, "setting=domain_incremental", "setting.split=permutation", f"tuned={method}/mnist/permuted"]
    assert compose(asked).method.strength == permuted


def test_lists_of_sizes_and_samples_that_may_change_are_taken() -> None:
    assert compose(["method=dgr", "method.hidden=[7]"]).method.hidden == [7]
    assert compose(["method=cn_dpm", "method.added=null"]).method.added is None
    assert compose(["method=cn_dpm", "method.added=[4]"]).method.added == [4]
    words = ["benchmark=cifar10", "benchmark/augmentation=flip_and_crop", "method=bic", "method.held_out=0"]
    assert compose(words).method.name == "bic"


@pytest.mark.parametrize("benchmark", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize("setting", ["task_incremental", "domain_incremental", "class_incremental"])
def test_methods_of_the_golden_table_remember_a_hundred_samples_a_class(benchmark: str, setting: str) -> None:
    words = [f"benchmark={benchmark}", f"setting={setting}"]
    for method in ("replay", "er_ace", "mir", "a_gem"):
        found = compose([*words, f"method={method}"]).method
        assert (found.each, found.memory) == (100, 1000)
    for method in ("der", "der_plus_plus"):  # of ten classes, over the whole stream
        found = compose([*words, f"method={method}"]).method
        assert (found.memory, found.storage, found.alpha) == (1000, "reservoir", 1.0)


def test_a_benchmark_names_its_method_and_the_shell_has_the_last_word() -> None:
    assert compose(["benchmark=matmul"]).method.name == "execute"
    with pytest.raises(Refused):
        compose(["benchmark=matmul", "method=inference"])


def test_a_cell_is_named_by_what_changes_its_result() -> None:
    words = ["benchmark=digits", "setting=class_incremental", "method=replay"]
    name = cell_name(plain(compose(words)))
    assert name.startswith("digits-auto-class_incremental-replay-seed0-")
    for same in ("output_dir=elsewhere", "tracking=off", "hardware.launcher.partition=x", "slots=3", "rerun=missing"):
        assert cell_name(plain(compose([*words, same]))) == name
    for other in ("seed=1", "method.memory=5", "until.steps=7", "setting.contexts=2"):
        assert cell_hash(plain(compose([*words, other]))) not in name
    space, tuned = "method.search.storage=[ring]", "tune=oracle"  # which values are tried decides where some are
    assert cell_name(plain(compose([*words, space]))) == name
    assert cell_name(plain(compose([*words, space, tuned]))) != cell_name(plain(compose([*words, tuned])))
