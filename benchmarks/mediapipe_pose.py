"""MediaPipe Pose on files, for benchmarks.pipeline; needs mediapipe and nothing from this project.

Each input line is the path of a photo. The output is a line of JSON: the seconds and the CPU seconds of
decoding and estimating it, and its persons: one or none, as 17 keypoints x, y in pixels and score, in COCO's
order.
"""

import json
import sys
from time import perf_counter, process_time

import cv2
import mediapipe

COCO_OF_33 = 0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28


def persons(network, path):
    image = cv2.imread(path)
    found = network.process(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)).pose_landmarks
    if found is None:
        return []
    height, width = image.shape[:2]
    points = [found.landmark[index] for index in COCO_OF_33]
    return [[[point.x * width - 0.5, point.y * height - 0.5, point.visibility] for point in points]]


def main():
    # the wheel includes only the network of complexity 1
    with mediapipe.solutions.pose.Pose(static_image_mode=True, model_complexity=1) as network:
        for line in sys.stdin:
            busy, start = process_time(), perf_counter()
            answer = persons(network, line.removesuffix("\n"))
            spent = {"seconds": perf_counter() - start, "cpu_seconds": process_time() - busy}
            print(json.dumps({**spent, "persons": answer}), flush=True)


if __name__ == "__main__":
    main()
