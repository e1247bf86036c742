"""timm's part of the zoo: every family, as small as it comes, with random weights and small images.

The names are those of timm 1.0.31: of every module of timm and every stem of names in it (``resnext``, ``seresnext``) the
model with the fewest parameters, and the smallest one with another first word. ``aimv2``, ``deepseek_vit`` and ``eva`` are
left out: their smallest have 300 to 400 million parameters.
"""

from __future__ import annotations

import torch
from zoo_cases import Case

NAMES = """
bat_resnext26ts beit3_base_patch16_224 beit_base_patch16_224 beitv2_base_patch16_224 botnet26t_256 botnet50ts_256
caformer_s18 cait_xxs24_224 coat_tiny coatnet_pico_rw_224 coatnext_nano_rw_224 convformer_s18 convit_tiny
convmixer_768_32 convnext_zepto_rms convnextv2_atto cpubone_nano crossvit_tiny_240 cs3darknet_focus_s
cs3sedarknet_xdw csatv2 cspdarknet53 cspnext_tiny cspresnet50 cspresnet50d cspresnext50 darknet17 darknet21
darknetaa53 davit_tiny deit3_small_patch16_224 deit_tiny_patch16_224 densenet121 densenet169 densenetblur121d
dla46_c dla46x_c dm_nfnet_f0 dpn48b dpn68 eca_botnext26ts_256 eca_nfnet_l0 eca_resnext26ts eca_vovnet39b
ecaresnet26t ecaresnet50d_pruned ecaresnetlight ecaresnext26t_32x4d ecaresnext50t_32x4d edgenext_xx_small
efficientformer_l1 efficientformerv2_s0 efficientnet_lite0 efficientnetv2_rw_t efficientvim_m1 efficientvit_b0
efficientvit_m0 ese_vovnet19b_slim_dw eva02_tiny_patch14_224 fasternet_t0 fastvit_t8 fbnetc_100 fbnetv3_b
flexivit_small focalnet_tiny_srf gc_efficientnetv2_rw_t gcresnet33ts gcresnet50t gcresnext26ts gcresnext50ts
gcvit_xxtiny gemma4_vit_167m_enc gernet_s ghostnet_050 ghostnetv2_100 ghostnetv3_050 gmixer_12_224 gmlp_ti16_224
halo2botnet50ts_256 halonet26t halonet_h1 haloregnetz_b hardcorenas_b hgnet_tiny hgnetv2_b0 hiera_tiny_224
hieradet_small hrnet_w18_small iformer_t inception_next_atto inception_resnet_v2 inception_v3 inception_v4
lambda_resnet26t lamhalobotnet50ts_256 lcnet_035 lcnetv2_small legacy_seresnet18 legacy_xception levit_128s
lowformer_b0 mambaout_femto maxvit_pico_rw_256 maxxvit_rmlp_nano_rw_256 maxxvitv2_nano_rw_256 mixer_s16_224 mixnet_s
mnasnet_small mobilenet_edgetpu_100 mobilenetv1_100 mobilenetv2_035 mobilenetv3_small_050 mobilenetv4_conv_small_035
mobilenetv5_base mobileone_s1 mobilevit_xxs mobilevitv2_050 mvitv2_tiny naflexvit_base_patch16_parfac_gap
nasnetalarge nest_tiny nextvit_small nf_regnet_b0 nfnet_l0 pit_ti_224 pnasnet5large poolformer_s12 poolformerv2_s12
pvt_v2_b0 qwen3_vit_88m rdnet_tiny regnetv_040 regnetx_002 regnety_002 regnetz_005 regnetz_b16 repghostnet_050
repvgg_a0 repvit_m1 res2net50_14w_8s res2next50 resmlp_12_224 resnest14d resnest26d resnet10t resnet14t resnet32ts
resnet33ts resnetaa34d resnetaa50 resnetblur18 resnetblur50 resnetrs101 resnetrs50 resnetv2_18 resnext26ts
resnext50_32x4d resnext50d_32x4d rexnet_100 rexnetr_100 sam2_hiera_tiny samvit_base_patch16_224 sebotnet33ts_256
sedarknet21 sehalonet33ts selecsls42 selecsls60 semnasnet_050 senet154 sequencer2d_s seresnet18 seresnet33ts
seresnet34 seresnetaa50d seresnext26d_32x4d seresnext26t_32x4d seresnext26ts seresnextaa101d_32x8d
seresnextaa201d_32x8d shvit_s1 skresnet18 skresnet34 skresnext50_32x4d spnasnet_100 starnet_s050 swiftformer_xs
swin_tiny_patch4_window7_224 swinv2_cr_tiny_224 swinv2_tiny_window16_256 tf_mixnet_s tf_mobilenetv3_small_075
tiny_vit_5m_224 tinynet_e tnt_s_legacy_patch16_224 tresnet_m twins_svt_small vgg11 vgg13 visformer_tiny
vit_srelpos_small_patch16_224 vit_tiny_patch16_224 vit_tiny_patch16_dinov3_qkvb vit_tiny_r_s16_p8_224
vitamin_small_224 volo_d1_224 vovnet39a vovnet57a wide_resnet50_2 xception41 xception41p xcit_nano_12_p8_224
""".split()
FEW = NAMES[::9]
"""Those of a quick run."""

SIDE = 64
"""Pixels of an image a side, where a model takes that."""
_SIDES = {
    "gemma4_vit_167m_enc": 96,
    "halo2botnet50ts_256": 128,
    "inception_resnet_v2": 96,
    "inception_v3": 96,
    "inception_v4": 96,
    "lamhalobotnet50ts_256": 128,
}
_OWN_SIDE = (
    "bat_resnext26ts crossvit_tiny_240 efficientformer_l1 halonet26t halonet_h1 haloregnetz_b sehalonet33ts".split()
)


def timm_case(name: str, batch: int) -> Case:
    """One model with images; one that is made for images of one size is made for small ones."""
    import timm

    made_for = timm.models.get_pretrained_cfg(name)
    if name in _OWN_SIDE:
        model, side = timm.create_model(name, pretrained=False), made_for.input_size[-1]
    else:
        side = _SIDES.get(name, SIDE)
        model = timm.create_model(name, pretrained=False, **({"img_size": side} if made_for.fixed_input_size else {}))
    return model.eval(), (torch.rand(batch, 3, side, side),), {}
