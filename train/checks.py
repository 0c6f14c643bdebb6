"""What the settings of a run must be, beside their own ranges."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustra_tf.cli import settings
from robustra_tf.cli.settings import Range, SettingError
from robustra_tf.training.methods import METHODS
from robustra_tf.vocabulary import PROJECTED_NORMS

from . import devices
from .material import check_material, parts

if TYPE_CHECKING:
    from .config import Config

SCHEDULES = ("alternating", "parallel")


def check(config: Config) -> None:
    """Refuses (`SettingError`) a setting that does not fit the data or another setting."""
    info = config.info()
    check_material(config, info)
    for name, usual in (("init", type(config).init), ("batch_norm", False), ("width", 1.0)):
        if config.model_file is not None and (value := getattr(config, name)) != usual:
            raise SettingError(name, "none with --model_file, whose layers say it", value)
    method = METHODS[config.method]
    if method.needs_reference and not config.pair:
        expected = f"true with --method={config.method}, each other's reference"
        raise SettingError("pair", expected, False)
    settings.one_of("inner", config.inner, method.inner)
    for name, usual in (("threshold", "t0"), ("agreement_weight", 0.0)):
        if not method.needs_reference and (value := getattr(config, name)) != usual:
            raise SettingError(name, f"{usual} with --method={config.method}", value)
    _check_schedule(config)
    _check_rates(config)
    settings.one_of("norm", config.norm, method.norms)
    _check_projection(config)
    settings.radius("eps", config.eps, config.norm, info.shape)
    settings.within("eps_start", config.eps_start, Range(0, config.eps, "(eps)"))
    warmup = Range(config.eps_warmup_epochs, unit="(or lower --eps_warmup_epochs)")
    settings.within("epochs", config.epochs, warmup)
    settings.radius("eps_train_ratio", config.eps_end, config.norm, info.shape)
    for name in ("interval_share", "attack_share"):
        if (value := getattr(config, name)) and config.norm != "linf":
            raise SettingError(name, f"0 with --norm={config.norm}", value)
    settings.within("shift", config.shift, Range(0, info.shape[0] - 1, "pixels"))
    trained, tested = parts(info)
    settings.within("limit_train", config.limit_train, Range(1, info.splits[trained]))
    settings.within("validation", config.validation, Range(0, config.limit_train - 1))
    most = 0 if tested is None else info.splits[tested]
    settings.within("limit_test", config.limit_test, Range(0, most))


def _check_rates(config: Config) -> None:
    drops = config.lr_drops
    if bool(drops) != (config.lr_schedule == "drops"):
        wanted = "epochs, as in 120,140," if not drops else "none"
        raise SettingError("lr_drops", f"{wanted} with --lr_schedule={config.lr_schedule}", drops)
    if list(drops) != sorted(set(drops)):
        raise SettingError("lr_drops", "rising epochs", drops)


def _check_projection(config: Config) -> None:
    if not config.projection:
        return
    if config.norm not in PROJECTED_NORMS:
        expected = f"0 with --norm={config.norm}, whose dual norm no projection estimates"
    elif not METHODS[config.method].mixes:
        expected = f"0 with --method={config.method}"
    elif config.inner != "dual":
        expected = f"0 with --inner={config.inner}"
    else:
        return
    raise SettingError("projection", expected, config.projection)


def _check_schedule(config: Config) -> None:
    found, paired = devices.of(config), len(config.networks) > 1
    settings.one_of("schedule", config.schedule, SCHEDULES if paired else SCHEDULES[:1])
    if config.devices_g is not None and not (paired and config.devices_f):
        raise SettingError("devices_g", "none without a pair and --devices_f", config.devices_g)
    if config.schedule == "parallel":
        for name in ("devices_f", "devices_g"):
            if not getattr(config, name):
                raise SettingError(name, "devices with --schedule=parallel", None)
        if both := sorted(set(found[0]) & set(found[1])):
            expected = "others than f's with --schedule=parallel"
            raise SettingError("devices_g", expected, ",".join(both))
    if config.split_gpu_mb and not found:
        raise SettingError("split_gpu_mb", "none without --devices_f", config.split_gpu_mb)
    for name, each in zip(("devices_f", "devices_g"), found, strict=False):
        if len(each) > config.batch_size:
            expected = f"at most --batch_size={config.batch_size} devices"
            raise SettingError(name, expected, ",".join(each))
