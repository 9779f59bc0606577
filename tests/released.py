"""Small copies of the released trees of the named datasets, with their quirks: what stands on disk and what has to come of it."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from support import picture

FF_LISTS = {
    "train.json": '[["000", "003"], ["071", "054"]]',
    "val.json": '[["720", "672"]]',
    "test.json": '[["953", "974"]]',
}
CELEBA_LISTS = {
    "CelebA-HQ-to-CelebA-mapping.txt": "idx orig_idx orig_file\n0 119613 119614.jpg\n1 99094 099095.jpg\n10 5 000006.jpg\n",
    "Anno/list_eval_partition.txt": "119614.jpg 0\n099095.jpg 1\n000006.jpg 2\n",
    "Anno/identity_CelebA.txt": "119614.jpg 1812\n099095.jpg 77\n000006.jpg 4153\n",
}


@dataclass(frozen=True, kw_only=True)
class Released:
    """One tree. `rows` are lines `path generator split group`."""

    images: str  # paths, one a line; `a = b` is a byte-identical copy of b
    rows: str
    texts: dict[str, str] = field(default_factory=dict)
    empty: tuple[str, ...] = ()  # files without a byte, and folders (ending in /) without a file
    unused: dict[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()  # a part of each

    def write(self, root: Path) -> Path:
        for path, text in self.texts.items():
            _open(root / path).write_text(text)
        for path in self.empty:
            if path.endswith("/"):
                (root / path).mkdir(parents=True)
            else:
                _open(root / path).write_bytes(b"")
        for line in self.images.split("\n"):
            path, _, origin = (part.strip() for part in line.partition(" = "))
            if origin:
                _open(root / path).write_bytes((root / origin).read_bytes())
            elif path:
                Image.fromarray(picture(zlib.crc32(path.encode()), 64)).save(_open(root / path))
        return root


def _open(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


TWO_SPLITS = "its identities fall into different splits"
NO_IMAGE = "not an image file name"

RELEASED = {
    # The official partition through the mapping; masks are not walked.
    "celebamask-hq": Released(
        images="""
            CelebAMask-HQ/CelebA-HQ-img/0.jpg
            CelebAMask-HQ/CelebA-HQ-img/1.jpg
            CelebAMask-HQ/CelebA-HQ-img/10.jpg
            CelebAMask-HQ/CelebA-HQ-img/11.jpg
            CelebAMask-HQ/CelebAMask-HQ-mask-anno/0/00000_hair.png
            CelebAMask-HQ/CelebAMask-HQ-mask-anno/0/00000_skin.png
        """,
        texts={f"CelebAMask-HQ/{name}": text for name, text in CELEBA_LISTS.items()},
        rows="""
            CelebAMask-HQ/CelebA-HQ-img/0.jpg real train 1812
            CelebAMask-HQ/CelebA-HQ-img/1.jpg real val 77
            CelebAMask-HQ/CelebA-HQ-img/10.jpg real test 4153
            CelebAMask-HQ/CelebA-HQ-img/11.jpg real train 11
        """,
    ),
    # StarGAN v2's folders; the partition, where a file has one, goes before the folder.
    "celebahq": Released(
        images="""
            celeba_hq/train/female/000000.jpg
            celeba_hq/train/male/000001.jpg
            celeba_hq/train/male/000004.jpg
            celeba_hq/val/female/000010.jpg
            celeba_hq/val/male/000012.jpg
        """,
        texts=CELEBA_LISTS,
        rows="""
            celeba_hq/train/female/000000.jpg real train 1812
            celeba_hq/train/male/000001.jpg real val 77
            celeba_hq/train/male/000004.jpg real train 000004
            celeba_hq/val/female/000010.jpg real test 4153
            celeba_hq/val/male/000012.jpg real val 000012
        """,
    ),
    "ffhq": Released(
        images="""
            images1024x1024/00000/00000.png
            images1024x1024/00000/00999.png
            images1024x1024/59000/59999.png
            images1024x1024/60000/60000.png
            images1024x1024/60000/60007.png
            thumbnails128x128/00000/00000.png
            images1024x1024/preview.png
        """,
        texts={"ffhq-dataset-v2.json": "{}", "images1024x1024/LICENSE.txt": "by"},
        rows="""
            images1024x1024/00000/00000.png real train 00000
            images1024x1024/00000/00999.png real train 00999
            images1024x1024/59000/59999.png real train 59999
            images1024x1024/60000/60000.png real test 60000
            images1024x1024/60000/60007.png real val 60007
        """,
        unused={"fits no path of the layout": 1, NO_IMAGE: 2},
        warnings=("1 images fit no path of the layout, the first is images1024x1024/preview.png",),
    ),
    # No public layout: sources on any level, splits above, below or nowhere, every spelling.
    "genface": Released(
        images="""
            GenFace/EFS/diffusion/LDM/train/a.png
            GenFace/EFS/diffusion/LDM/test/b.png
            GenFace/EFS/gan/stylegan2/c.png
            GenFace/EFS/gan/stylegan2/i.png
            GenFace/EFS/gan/stylegan2/t.png
            GenFace/test/FS/DiffFace/d.png
            GenFace/train/AM/latent_transformer/images/e.png
            GenFace/validation/Real/f.jpg
            GenFace/train/FS/DiffFace/mask/d.png
            GenFace/train/other/g.png
            MFCLIP/train/fake/EFS/Diffusion/latentdiffusion_1.png
            MFCLIP/train/fake/EFS/Diffusion/colladiffusion_2.png
            MFCLIP/val/fake/EFS/Diffusion/ddpm_3.png
            MFCLIP/train/fake/AM/Diffusion/4.png
            MFCLIP/train/fake/FS/Diffusion/5.png
            MFCLIP/test/fake/FS/GAN/6_7_FSLSD.png
            MFCLIP/test/fake/FS/GAN/6_7_FaceSwapper.png
            MFCLIP/test/real/CelebA_HQ/8.png
            MFCLIP/test/real/FFHQ/9.png
        """,
        rows="""
            GenFace/EFS/diffusion/LDM/test/b.png LatDiff test b
            GenFace/EFS/diffusion/LDM/train/a.png LatDiff train a
            GenFace/EFS/gan/stylegan2/c.png StyleGAN2 train c
            GenFace/EFS/gan/stylegan2/i.png StyleGAN2 val i
            GenFace/EFS/gan/stylegan2/t.png StyleGAN2 test t
            GenFace/test/FS/DiffFace/d.png DiffFace test d
            GenFace/train/AM/latent_transformer/images/e.png LatTrans train e
            GenFace/validation/Real/f.jpg real val f
            MFCLIP/test/fake/FS/GAN/6_7_FSLSD.png FSLSD test 6_7
            MFCLIP/test/fake/FS/GAN/6_7_FaceSwapper.png FaceSwapper test 6_7
            MFCLIP/test/real/CelebA_HQ/8.png real test 8
            MFCLIP/test/real/FFHQ/9.png real test 9
            MFCLIP/train/fake/AM/Diffusion/4.png Diffae train 4
            MFCLIP/train/fake/EFS/Diffusion/colladiffusion_2.png CollDiff train 2
            MFCLIP/train/fake/EFS/Diffusion/latentdiffusion_1.png LatDiff train 1
            MFCLIP/train/fake/FS/Diffusion/5.png DiffFace train 5
            MFCLIP/val/fake/EFS/Diffusion/ddpm_3.png DDPM val 3
        """,
        unused={"fits no path of the layout": 1},
        warnings=("1 images fit no path of the layout, the first is GenFace/train/other/g.png",),
    ),
    # Both archives, doubled and misspelt folders, empty folders, flat ones, copies, videos of two identities.
    "df40": Released(
        images="""
            DF40/simswap/ff/frames/953_974/000.png
            DF40/simswap/cdf/frames/id0_id2_0000/000.png
            DF40/e4s/cdf/Fake_from_Celeb-real/frames/id3_id4_0001/010.png
            DF40/e4s/cdf/Fake_from_Youtube-real/frames/00011/010.png
            DF40/sd2.1/ff/953/000.png
            DF40/sd2.1/ff/974/000.png = DF40/sd2.1/ff/953/000.png
            DF40/styleclip/styleclip/fake/01.png
            DF40/styleclip/styleclip/real/01.png
            DF40/stargan/fake/fake/01.png
            DF40/stargan/real/02.png = DF40/styleclip/styleclip/real/01.png
            DF40/heygen/heygen_new/fake/frames/clip1/000.png
            DF40/heygen/heygen_new/real/frames/clip1/000.png
            DF40/whichisreal/whichfaceisreal/whichfaceisreal/fake/01.jpeg
            DF40_train/simswap/frames/000_003/000.png
            DF40_train/simswap/frames/039_047/000.png
            DF40_train/simswap/frames/039_000/000.png
            DF40_train/simswap/frames/953_000/000.png
            DF40_train/danet/ff/frames/003_000/000.png
            DF40_train/DiT/ff/000/000.png
            DF40_train/DiT/ff/000/001.png
        """,
        empty=("DF40/sd2.1/ff/001/", "DF40_train/DiT/ff/005/", "DF40_train/DiT/ff/000/002.png"),
        rows="""
            DF40/e4s/cdf/Fake_from_Celeb-real/frames/id3_id4_0001/010.png e4s test id3+id4
            DF40/e4s/cdf/Fake_from_Youtube-real/frames/00011/010.png e4s test 00011
            DF40/heygen/heygen_new/fake/frames/clip1/000.png HeyGen test clip1
            DF40/heygen/heygen_new/real/frames/clip1/000.png real test clip1
            DF40/sd2.1/ff/953/000.png SD-2.1 test 953
            DF40/simswap/cdf/frames/id0_id2_0000/000.png SimSwap test id0+id2
            DF40/simswap/ff/frames/953_974/000.png SimSwap test 953+974
            DF40/stargan/fake/fake/01.png StarGAN test 01
            DF40/stargan/real/02.png real test 02
            DF40/styleclip/styleclip/fake/01.png StyleCLIP test 01
            DF40/whichisreal/whichfaceisreal/whichfaceisreal/fake/01.jpeg WhichFaceIsReal test 01
            DF40_train/DiT/ff/000/000.png DiT train 000
            DF40_train/DiT/ff/000/001.png DiT train 000
            DF40_train/DiT/ff/000/002.png DiT train 000
            DF40_train/danet/ff/frames/003_000/000.png DaGAN train 003+000
            DF40_train/simswap/frames/000_003/000.png SimSwap train 000+003
            DF40_train/simswap/frames/039_047/000.png SimSwap val 039+047
        """,
        unused={TWO_SPLITS: 2, "byte-identical to another file of its source": 2},
        warnings=("2 folders are empty, the first is DF40/sd2.1/ff/001/",),
    ),
    # 33 frames of one video are one more than are taken; masks beside the frames; actors of DeepFakeDetection.
    "ffpp": Released(
        images="\n".join(
            [
                *(f"FaceForensics++/original_sequences/youtube/c23/frames/000/{n:03d}.png" for n in range(33)),
                "FaceForensics++/original_sequences/youtube/c23/frames/953/000.png",
                "FaceForensics++/original_sequences/actors/c23/frames/01__walk_down/000.png",
                "FaceForensics++/manipulated_sequences/Deepfakes/c23/frames/000_003/000.png",
                "FaceForensics++/manipulated_sequences/Deepfakes/c23/masks/000_003/000.png",
                "FaceForensics++/manipulated_sequences/FaceShifter/c23/frames/720_672/000.png",
                "FaceForensics++/manipulated_sequences/NeuralTextures/c40/frames/974_953/000.png",
                "FaceForensics++/manipulated_sequences/Face2Face/c23/frames/000_953/000.png",
                "FaceForensics++/manipulated_sequences/DeepFakeDetection/c23/frames/02_04__walk_down__ABC/000.png",
                "FaceForensics++/manipulated_sequences/DeepFakeDetection/c23/frames/02_01__walk_down__ABC/000.png",
            ]
        ),
        texts={f"FaceForensics++/{name}": text for name, text in FF_LISTS.items()},
        rows="\n".join(
            [
                "FaceForensics++/manipulated_sequences/DeepFakeDetection/c23/frames/02_04__walk_down__ABC/000.png "
                "DeepFakeDetection train actor02+actor04",
                "FaceForensics++/manipulated_sequences/Deepfakes/c23/frames/000_003/000.png Deepfakes train 000+003",
                "FaceForensics++/manipulated_sequences/FaceShifter/c23/frames/720_672/000.png FaceShifter val 720+672",
                "FaceForensics++/manipulated_sequences/NeuralTextures/c40/frames/974_953/000.png NeuralTextures test 974+953",
                "FaceForensics++/original_sequences/actors/c23/frames/01__walk_down/000.png real val actor01",
                *(
                    f"FaceForensics++/original_sequences/youtube/c23/frames/000/{n:03d}.png real train 000"
                    for n in range(33)
                    if n != 16
                ),
                "FaceForensics++/original_sequences/youtube/c23/frames/953/000.png real test 953",
            ]
        ),
        unused={"beyond 32 evenly spaced frames of its video": 1, TWO_SPLITS: 2},
    ),
    "celebdf": Released(
        images="""
            Celeb-DF-v2/Celeb-real/frames/id1_0000/000.png
            Celeb-DF-v2/Celeb-real/frames/id9_0003/000.png
            Celeb-DF-v2/Celeb-real/frames/id0_0001/000.png
            Celeb-DF-v2/YouTube-real/frames/00170/000.png
            Celeb-DF-v2/YouTube-real/frames/00001/000.png
            Celeb-DF-v2/Celeb-synthesis/frames/id0_id2_0000/000.png
            Celeb-DF-v2/Celeb-synthesis/frames/id3_id4_0000/000.png
            Celeb-DF-v2/Celeb-synthesis/frames/id1_id9_0000/000.png
            Celeb-DF-v2/Celeb-synthesis/frames/id3_id9_0000/000.png
            Celeb-DF-v2/Celeb-synthesis/frames/id0_id4_0000/000.png
        """,
        texts={
            "Celeb-DF-v2/List_of_testing_videos.txt": "1 YouTube-real/00170.mp4\n1 Celeb-real/id0_0001.mp4\n"
            "0 Celeb-synthesis/id0_id2_0000.mp4\n"
        },
        rows="""
            Celeb-DF-v2/Celeb-real/frames/id0_0001/000.png real test id0
            Celeb-DF-v2/Celeb-real/frames/id1_0000/000.png real val id1
            Celeb-DF-v2/Celeb-real/frames/id9_0003/000.png real val id9
            Celeb-DF-v2/Celeb-synthesis/frames/id0_id2_0000/000.png Celeb-DF test id0+id2
            Celeb-DF-v2/Celeb-synthesis/frames/id1_id9_0000/000.png Celeb-DF val id1+id9
            Celeb-DF-v2/Celeb-synthesis/frames/id3_id4_0000/000.png Celeb-DF train id3+id4
            Celeb-DF-v2/YouTube-real/frames/00001/000.png real train 00001
            Celeb-DF-v2/YouTube-real/frames/00170/000.png real test 00170
        """,
        unused={TWO_SPLITS: 2},
    ),
    # A fake follows its original; a video without a label is left out.
    "dfdc": Released(
        images="""
            DFDC/test/frames/testreal/000.png
            DFDC/test/frames/testfake/000.png
            DFDC/train/dfdc_train_part_0/frames/vudstovrck/000.png
            DFDC/train/dfdc_train_part_0/frames/aaqaifqrwn/000.png
            DFDC/train/dfdc_train_part_1/frames/qcbkztamqc/000.png
            DFDC/train/dfdc_train_part_1/frames/agdqmmaztm/000.png
            DFDC/train/dfdc_train_part_1/frames/nowhere/000.png
        """,
        texts={
            "DFDC/test/labels.csv": "filename,label\ntestreal.mp4,0\ntestfake.mp4,1\n",
            "DFDC/train/dfdc_train_part_0/metadata.json": '{"vudstovrck.mp4": {"label": "REAL", "original": null}, '
            '"aaqaifqrwn.mp4": {"label": "FAKE", "split": "train", "original": "vudstovrck.mp4"}}',
            "DFDC/train/dfdc_train_part_1/metadata.json": '{"qcbkztamqc.mp4": {"label": "REAL", "split": "train"}, '
            '"agdqmmaztm.mp4": {"label": "FAKE", "split": "train", "original": "qcbkztamqc.mp4"}}',
        },
        rows="""
            DFDC/test/frames/testfake/000.png DFDC test testfake
            DFDC/test/frames/testreal/000.png real test testreal
            DFDC/train/dfdc_train_part_0/frames/aaqaifqrwn/000.png DFDC train vudstovrck
            DFDC/train/dfdc_train_part_0/frames/vudstovrck/000.png real train vudstovrck
            DFDC/train/dfdc_train_part_1/frames/agdqmmaztm/000.png DFDC val qcbkztamqc
            DFDC/train/dfdc_train_part_1/frames/qcbkztamqc/000.png real val qcbkztamqc
        """,
        unused={"its video stands in no list of labels": 1},
    ),
    # The lists part the fakes; FF++'s videos follow the fakes made of them, an actor of both sides is left out.
    "deeperforensics": Released(
        images="""
            DeeperForensics-1.0/manipulated_videos/end_to_end/frames/000_M001/000.png
            DeeperForensics-1.0/manipulated_videos/end_to_end_level_5/frames/000_M001/000.png
            DeeperForensics-1.0/manipulated_videos/end_to_end/frames/953_M001/000.png
            DeeperForensics-1.0/manipulated_videos/reenact_postprocess/frames/720_W012/000.png
            DeeperForensics-1.0/source_videos/M001/frames/M001_light_up/000.png
            DeeperForensics-1.0/source_videos/M002/frames/M002_light_up/000.png
            DeeperForensics-1.0/original_sequences/youtube/c23/frames/953/000.png
            DeeperForensics-1.0/original_sequences/youtube/c23/frames/001/000.png
        """,
        texts={
            "DeeperForensics-1.0/lists/splits/train.txt": "000_M001.mp4\n",
            "DeeperForensics-1.0/lists/splits/val.txt": "720_W012.mp4\n",
            "DeeperForensics-1.0/lists/splits/test.txt": "953_M001.mp4\n",
        },
        rows="""
            DeeperForensics-1.0/manipulated_videos/end_to_end/frames/000_M001/000.png DF-VAE train 000+M001
            DeeperForensics-1.0/manipulated_videos/end_to_end/frames/953_M001/000.png DF-VAE test 953+M001
            DeeperForensics-1.0/manipulated_videos/end_to_end_level_5/frames/000_M001/000.png DF-VAE train 000+M001
            DeeperForensics-1.0/manipulated_videos/reenact_postprocess/frames/720_W012/000.png DF-reenact val 720+W012
            DeeperForensics-1.0/original_sequences/youtube/c23/frames/001/000.png real train 001
            DeeperForensics-1.0/original_sequences/youtube/c23/frames/953/000.png real test 953
            DeeperForensics-1.0/source_videos/M002/frames/M002_light_up/000.png real train M002
        """,
        unused={TWO_SPLITS: 1},
        warnings=("the official split lists of this dataset share 1 identities or videos between splits",),
    ),
    # An unknown class is accepted, with a warning.
    "owdfa40": Released(
        images="""
            OWDFA40/train/0_Real/b.png
            OWDFA40/train/0_Real/i.png
            OWDFA40/train/7_ATVG-Net/c.jpg
            OWDFA40/test/7_ATVG-Net/d.jpg
            OWDFA40/12_StarGAN2/test/e.png
            OWDFA40/40_Brand-New/t.png
        """,
        rows="""
            OWDFA40/12_StarGAN2/test/e.png StarGANv2 test e
            OWDFA40/40_Brand-New/t.png Brand-New test t
            OWDFA40/test/7_ATVG-Net/d.jpg ATVG-Net test d
            OWDFA40/train/0_Real/b.png real train b
            OWDFA40/train/0_Real/i.png real val i
            OWDFA40/train/7_ATVG-Net/c.jpg ATVG-Net train c
        """,
        warnings=("'Brand-New' is not in the taxonomy",),
    ),
}
