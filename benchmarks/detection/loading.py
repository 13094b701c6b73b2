"""Photos for mmdetection's pipelines, read as everywhere in the suite. Importing this imports mmdet."""
from mmcv.transforms import BaseTransform
from mmdet.registry import TRANSFORMS

from detco.images import decode


@TRANSFORMS.register_module()
class LoadImage(BaseTransform):
    """Load `img_path` as `img` uint8 [H, W, 3], BGR, with `img_shape` and `ori_shape` (height, width).

    mmcv's LoadImageFromFile turns photos by their EXIF orientation and leaves the boxes where they were; this one
    reads pixels as stored (`detco.images`). Of other photos both give the same. Raises ImageError.
    """

    def transform(self, results: dict) -> dict:
        image = decode(results["img_path"]).flip(0).permute(1, 2, 0).contiguous().numpy()
        return results | dict(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])
