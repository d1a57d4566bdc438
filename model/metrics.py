"""Accuracy on labelled photos: AP and AR of keypoints and of person boxes as COCO defines them, PCKh."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from faster_coco_eval import COCO
from faster_coco_eval.core.faster_eval_api import COCOeval_faster

from model.geometry import Floats
from model.keypoints import OKS_SIGMAS
from model.samples import PersonAnnotation, Sample

#: Predictions of one photo: values (N, ...) and scores (N,).
Scored = tuple[Floats, Floats]

#: The groups in which PCKh is reported, as indices of MPII's joints.
PCKH_GROUPS: dict[str, tuple[int, ...]] = {
    "head": (9,),
    "shoulder": (12, 13),
    "elbow": (11, 14),
    "wrist": (10, 15),
    "hip": (2, 3),
    "knee": (1, 4),
    "ankle": (0, 5),
}


@dataclass(frozen=True)
class Accuracy:
    """COCO's averages over similarities 0.50 to 0.95, each in [0, 1], or -1 if no person counts.

    persons: number of counted persons: without crowds and, for keypoints, without unlabelled persons.
    """

    ap: float
    ap50: float
    ap75: float
    ap_medium: float
    ap_large: float
    ar: float
    persons: int
    images: int


def has_keypoints(person: PersonAnnotation) -> bool:
    """Whether the person counts for keypoints: it is not a crowd and has at least one label."""
    return not person.crowd and bool(person.keypoints[:, 2].any())


def keypoint_accuracy(samples: Sequence[Sample], poses: Sequence[Scored]) -> Accuracy:
    """AP and AR by OKS; poses[i] are keypoints (N, 17, 3) in pixels of samples[i].image(), and scores (N,).

    Source: https://cocodataset.org/#keypoints-eval; at most 20 poses a photo.
    """
    results = [
        {"image_id": image, "category_id": 1, "keypoints": keypoints.ravel().tolist(), "score": float(score)}
        for image, scored in enumerate(poses, 1)
        for keypoints, score in zip(*scored, strict=True)
    ]
    persons = sum(has_keypoints(person) for sample in samples for person in sample.persons)
    return _accuracy(samples, results, "keypoints", persons)


def box_accuracy(samples: Sequence[Sample], boxes: Sequence[Scored]) -> Accuracy:
    """AP and AR by IoU; boxes[i] are x1, y1, x2, y2 (N, 4) in pixels of samples[i].image(), and scores (N,).

    Source: https://cocodataset.org/#detection-eval; at most 100 boxes a photo.
    """
    results = [
        {"image_id": image, "category_id": 1, "bbox": _xywh(box), "score": float(score)}
        for image, scored in enumerate(boxes, 1)
        for box, score in zip(*scored, strict=True)
    ]
    persons = sum(not person.crowd for sample in samples for person in sample.persons)
    return _accuracy(samples, results, "bbox", persons)


def _accuracy(samples: Sequence[Sample], results: list[dict[str, Any]], kind: str, persons: int) -> Accuracy:
    truth = COCO(ground_truth(samples))
    evaluation = COCOeval_faster(truth, truth.loadRes(results), kind, kpt_oks_sigmas=list(OKS_SIGMAS))
    evaluation.run()
    stats = evaluation.stats_as_dict
    return Accuracy(
        ap=stats["AP_all"],
        ap50=stats["AP_50"],
        ap75=stats["AP_75"],
        ap_medium=stats["AP_medium"],
        ap_large=stats["AP_large"],
        ar=stats["AR_all" if kind == "keypoints" else "AR_third"],  # boxes: of 1, 10 and 100, the last
        persons=persons,
        images=len(samples),
    )


def ground_truth(samples: Sequence[Sample]) -> dict[str, Any]:
    """The labels in COCO's format; the image_id of samples[i] is i + 1."""
    labels = [(image, person) for image, sample in enumerate(samples, 1) for person in sample.persons]
    return {
        "images": [{"id": image} for image in range(1, len(samples) + 1)],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": 1,
                "bbox": _xywh(person.box),
                "area": person.area,
                "iscrowd": int(person.crowd),
                "keypoints": person.keypoints.ravel().tolist(),
                "num_keypoints": int(np.count_nonzero(person.keypoints[:, 2])),
            }
            for number, (image, person) in enumerate(labels, 1)
        ],
    }


def _xywh(box: Floats) -> list[float]:
    x1, y1, x2, y2 = box.tolist()
    return [x1, y1, x2 - x1, y2 - y1]


def pckh(persons: Sequence[PersonAnnotation], keypoints: Floats, threshold: float = 0.5) -> dict[str, float]:
    """PCKh of each joint group and their "mean": shares within `threshold` head sizes, in [0, 1].

    persons: MPII's, with head size; keypoints: float32 (P, 16, 3), one pose for each of the P persons, x
    and y first, in pixels of the photo. Only labelled joints count; the mean excludes pelvis and thorax, as
    usual. A group without labelled joints is NaN. Source: Andriluka et al., CVPR 2014, section 4.
    """
    truth = np.stack([person.keypoints for person in persons])
    head_sizes = np.array([person.head_size for person in persons], np.float32)
    distances = np.linalg.norm(keypoints[..., :2] - truth[..., :2], axis=2) / head_sizes[:, None]
    labelled = truth[..., 2] > 0
    correct = (distances <= threshold) & labelled
    hits, counts = correct.sum(0), labelled.sum(0)
    rates = np.divide(hits, counts, out=np.full(len(hits), np.nan), where=counts > 0)
    groups = {name: float(rates[list(joints)].mean()) for name, joints in PCKH_GROUPS.items()}
    limbs = np.delete(np.arange(len(hits)), (6, 7))
    return groups | {"mean": float(hits[limbs].sum() / max(counts[limbs].sum(), 1))}
