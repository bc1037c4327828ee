#!/usr/bin/env python3
# SPDX-License-Identifier: MPL-2.0
"""Train, export and measure street_nano, a small person/vehicle detector.

The detector learns from the boxes that a teacher network (YOLOX-Nano, COCO
weights, Apache-2.0) finds in a few street clips.  No human labels and no
pretrained weights go into it.  Five steps, each a sub-command; `all` runs
them in order:

  prepare  decode the clips, damage copies of them with H.264 at constant
           quantisers, run the teacher on the clean frames
  train    train on crops and mosaics of those frames (cosine cycles, EMA)
  export   fold batch norm, write the ONNX file, compare it with torch
  eval     F1 against the teacher on pictures that were not trained on
  bench    time per frame of the ONNX file with one thread

Needs: torch, onnx, onnxruntime, opencv-python-headless, numpy, and the ffmpeg
program with libx264.  The card (CARD.md) gives the exact command lines.
"""

import argparse
import json
import os
import subprocess
import time
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort

cv2.setNumThreads(1)

CLASSES = ("person", "vehicle")
# COCO class number -> our class; every other COCO class is dropped.
COCO_TO_OURS = {0: 0, 2: 1, 3: 1, 5: 1, 7: 1}
IN_H, IN_W = 576, 768
STRIDES = (8, 16, 32)
PAD = 114

# name, first frame, end frame (exclusive; None = all), frame step, share of
# the training crops
CLIPS = (
    ("vtest", 0, 397, 1, 0.50),
    ("sf_street", 0, None, 2, 0.26),
    ("crowd", 0, None, 4, 0.12),
    ("dashcam", 0, None, 3, 0.12),
)
# Shares in the second training run (--broad), which leans on the other scenes
# and on vehicles to carry over better to new places.
BROAD_SHARES = {"vtest": 0.36, "sf_street": 0.34, "crowd": 0.12,
                "dashcam": 0.18}
QUANTISERS = (26, 32, 36, 40)


# --------------------------------------------------------------------------
# Pictures and boxes
# --------------------------------------------------------------------------

def read_frames(path, first=0, end=None, step=1):
    """Yield every step-th BGR frame of first..end-1, read in order."""
    cap = cv2.VideoCapture(str(path))
    if not cap.isOpened():
        raise SystemExit(f"cannot open {path}")
    index = 0
    while end is None or index < end:
        ok, frame = cap.read()
        if not ok:
            break
        if index >= first and (index - first) % step == 0:
            yield frame
        index += 1
    cap.release()


def letterbox(img, height, width, shrink=1.0):
    """Fit img into the canvas at the top left, fill with grey."""
    h, w = img.shape[:2]
    scale = min(height / h, width / w) * shrink
    nw, nh = round(w * scale), round(h * scale)
    canvas = np.full((height, width, 3), PAD, np.uint8)
    if (nh, nw) != (h, w):
        img = cv2.resize(img, (nw, nh), interpolation=cv2.INTER_LINEAR)
    canvas[:nh, :nw] = img
    return canvas, scale


def iou_matrix(a, b):
    lt = np.maximum(a[:, None, :2], b[None, :, :2])
    rb = np.minimum(a[:, None, 2:4], b[None, :, 2:4])
    inter = np.prod(np.clip(rb - lt, 0, None), axis=2)
    area_a = np.prod(a[:, 2:4] - a[:, :2], axis=1)
    area_b = np.prod(b[:, 2:4] - b[:, :2], axis=1)
    return inter / (area_a[:, None] + area_b[None] - inter + 1e-9)


def suppress(dets, thr):
    """Greedy non-maximum suppression within each class; rows are
    x1, y1, x2, y2, score, class."""
    dets = dets[np.argsort(-dets[:, 4], kind="stable")]
    kept = []
    if len(dets):
        overlap = iou_matrix(dets, dets)
        same = dets[:, None, 5] == dets[None, :, 5]
        dead = np.zeros(len(dets), bool)
        for i in range(len(dets)):
            if not dead[i]:
                kept.append(i)
                dead |= (overlap[i] > thr) & same[i]
    return dets[kept]


class Detector:
    """An ONNX detector with the raw YOLOX output layout."""

    def __init__(self, path, threads=2, coco=False):
        opts = ort.SessionOptions()
        opts.intra_op_num_threads = threads
        self.session = ort.InferenceSession(
            str(path), opts, providers=["CPUExecutionProvider"])
        inp = self.session.get_inputs()[0]
        self.name, (self.h, self.w) = inp.name, inp.shape[2:]
        self.coco = coco
        cells = []
        for s in STRIDES:
            gy, gx = np.mgrid[:self.h // s, :self.w // s]
            cells.append(np.stack(
                [gx.ravel(), gy.ravel(), np.full(gx.size, s)], 1))
        self.cells = np.concatenate(cells).astype(np.float32)

    def __call__(self, img, conf=0.05, nms=0.5, shrink=1.0):
        canvas, scale = letterbox(img, self.h, self.w, shrink)
        x = canvas.transpose(2, 0, 1)[None].astype(np.float32)
        out = self.session.run(None, {self.name: x})[0][0]
        cls = out[:, 5:].argmax(1)
        score = out[:, 4] * out[:, 5:].max(1)
        keep = score > conf
        out, cls, score = out[keep], cls[keep], score[keep]
        gx, gy, s = self.cells[keep].T
        if self.coco:
            ours = np.array([COCO_TO_OURS.get(c, -1) for c in range(80)])[cls]
        else:
            ours = cls
        cx, cy = (out[:, 0] + gx) * s, (out[:, 1] + gy) * s
        bw, bh = np.exp(out[:, 2]) * s, np.exp(out[:, 3]) * s
        dets = np.stack([cx - bw / 2, cy - bh / 2, cx + bw / 2, cy + bh / 2,
                         score, ours], 1).astype(np.float32)
        dets = dets[ours >= 0]
        dets[:, :4] /= scale
        h, w = img.shape[:2]
        dets[:, [0, 2]] = dets[:, [0, 2]].clip(0, w)
        dets[:, [1, 3]] = dets[:, [1, 3]].clip(0, h)
        return suppress(dets, nms)


# --------------------------------------------------------------------------
# Preparation: damaged copies and pseudo labels
# --------------------------------------------------------------------------

def encode_decode(frames, quantiser, work):
    """Return the frames after an H.264 round trip at a constant quantiser."""
    h, w = frames[0].shape[:2]
    out = work / "damaged.mp4"
    cmd = ["ffmpeg", "-v", "error", "-y", "-f", "rawvideo",
           "-pix_fmt", "bgr24", "-s", f"{w}x{h}", "-r", "25", "-i", "-",
           "-an", "-c:v", "libx264", "-preset", "veryfast",
           "-qp", str(quantiser), "-pix_fmt", "yuv420p", str(out)]
    with subprocess.Popen(cmd, stdin=subprocess.PIPE) as enc:
        for frame in frames:
            enc.stdin.write(frame.tobytes())
        enc.stdin.close()
        if enc.wait():
            raise SystemExit("ffmpeg failed")
    damaged = list(read_frames(out))
    out.unlink()
    if len(damaged) != len(frames):
        raise SystemExit("frame count changed in the H.264 round trip")
    return damaged


def ensemble(teacher, img):
    """Mean of four teacher views: plain, mirrored, and both at 0.88 size."""
    views = []
    width = img.shape[1]
    for shrink in (1.0, 0.88):
        views.append(teacher(img, shrink=shrink))
        flipped = teacher(np.ascontiguousarray(img[:, ::-1]), shrink=shrink)
        flipped[:, [0, 2]] = width - flipped[:, [2, 0]]
        views.append(flipped)
    pool = np.concatenate(views)
    pool = pool[np.argsort(-pool[:, 4], kind="stable")]
    groups = []
    for det in pool:
        best, best_iou = None, 0.55
        for group in groups:
            if group[0][5] == det[5]:
                value = iou_matrix(group[0][None], det[None])[0, 0]
                if value > best_iou:
                    best, best_iou = group, value
        if best is None:
            groups.append([det])
        else:
            best.append(det)
    fused = []
    for group in groups:
        rows = np.stack(group)
        box = np.average(rows[:, :4], axis=0, weights=rows[:, 4])
        score = min(1.0, rows[:, 4].sum() / len(views))
        fused.append([*box, score, rows[0, 5]])
    return suppress(np.array(fused, np.float32).reshape(-1, 6), 0.6)


def smooth_in_time(labels):
    """Steady the scores with the two neighbouring frames, and fill in a box
    that both neighbours have and this frame lacks."""
    out = []
    for t, cur in enumerate(labels):
        if t == 0 or t == len(labels) - 1 or not len(cur):
            out.append(cur.copy())
            continue
        new = cur.copy()
        sides = []
        for other in (labels[t - 1], labels[t + 1]):
            if not len(other):
                break
            iou = iou_matrix(cur, other)
            iou[cur[:, None, 5] != other[None, :, 5]] = 0
            sides.append((other, iou))
        if len(sides) == 2:
            for i in range(len(cur)):
                scores = [o[m[i].argmax(), 4] if m[i].max() > 0.45 else None
                          for o, m in sides]
                if None not in scores:
                    new[i, 4] = 0.5 * cur[i, 4] + 0.25 * sum(scores)
            (prev, m_prev), (nxt, m_nxt) = sides
            link = iou_matrix(prev, nxt)
            extra = []
            for i in range(len(prev)):
                j = link[i].argmax()
                if (link[i, j] > 0.4 and prev[i, 5] == nxt[j, 5]
                        and min(prev[i, 4], nxt[j, 4]) > 0.3
                        and m_prev[:, i].max() < 0.3
                        and m_nxt[:, j].max() < 0.3):
                    row = (prev[i] + nxt[j]) / 2
                    row[4] *= 0.5
                    extra.append(row)
            if extra:
                new = np.concatenate([new, np.stack(extra)])
        out.append(new)
    return out


def prepare(args):
    work = Path(args.work)
    work.mkdir(parents=True, exist_ok=True)
    teacher = Detector(args.teacher, args.threads, coco=True)
    paths = {name: getattr(args, name) for name, *_ in CLIPS}
    meta = {}
    for name, first, end, step, _ in CLIPS:
        start = time.time()
        frames = list(read_frames(paths[name], first, end))
        h, w = frames[0].shape[:2]
        fit = min(IN_H / h, IN_W / w)
        ratio = min(1.0, fit * 1.25)     # stored size relative to the clip
        sw, sh = round(w * ratio), round(h * ratio)
        picked = list(range(0, len(frames), step))
        store = np.lib.format.open_memmap(
            work / f"{name}.npy", "w+", np.uint8,
            (len(picked), 1 + len(QUANTISERS), sh, sw, 3))
        for variant, q in enumerate((None, *QUANTISERS)):
            source = frames if q is None else encode_decode(frames, q, work)
            for k, index in enumerate(picked):
                img = source[index]
                if ratio < 1.0:
                    img = cv2.resize(img, (sw, sh),
                                     interpolation=cv2.INTER_LINEAR)
                store[k, variant] = img
        store.flush()
        labels = []
        for index in picked:
            dets = ensemble(teacher, frames[index])
            dets[:, :4] *= sw / w
            labels.append(dets)
        labels = smooth_in_time(labels)
        np.savez(work / f"{name}_labels.npz",
                 boxes=np.concatenate(labels),
                 count=np.array([len(x) for x in labels]))
        meta[name] = {"fit": fit / ratio, "frames": len(picked)}
        strong = sum(int((x[:, 4] >= 0.3).sum()) for x in labels)
        print(f"{name}: {len(picked)} frames of {w}x{h} stored at {sw}x{sh}, "
              f"{strong} boxes of score >= 0.3, "
              f"{time.time() - start:.0f} s", flush=True)
    (work / "meta.json").write_text(json.dumps(meta, indent=1))


# --------------------------------------------------------------------------
# Training samples
# --------------------------------------------------------------------------

class Sampler:
    """Makes augmented crops with their boxes."""

    # rows of a sample: x1, y1, x2, y2, score, class, ignore flag

    def __init__(self, work, size, seed, broad=False):
        self.size = size
        self.broad = broad
        self.rng = np.random.default_rng(seed)
        meta = json.loads((Path(work) / "meta.json").read_text())
        self.clips = []
        self.weights = []
        for name, _, _, _, weight in CLIPS:
            data = np.load(Path(work) / f"{name}.npy", mmap_mode="r")
            lab = np.load(Path(work) / f"{name}_labels.npz")
            labels = np.split(lab["boxes"], np.cumsum(lab["count"])[:-1])
            cuts = self.find_cutouts(data, labels) if name in (
                "vtest", "sf_street") else []
            self.clips.append((name, data, labels, meta[name]["fit"], cuts))
            self.weights.append(BROAD_SHARES[name] if broad else weight)
        # (clip, cut-out) of whole vehicles, for --broad
        self.vehicles = [
            (clip, (k, tuple(det[:4].round().astype(int)), None, det[5]))
            for clip in self.clips if broad and clip[0] != "crowd"
            for k in range(0, len(clip[1]), 3)
            for det in clip[2][k]
            if det[5] == 1 and det[4] > 0.5
            and (det[2] - det[0]) * (det[3] - det[1]) > 300]
        self.weights = np.array(self.weights) / sum(self.weights)

    def find_cutouts(self, data, labels):
        """Boxes of moving objects that stand free, with a mask from the
        difference to the median picture (the camera does not move)."""
        stride = max(1, len(data) // 24)
        ground = np.median(data[::stride, 0], axis=0).astype(np.int16)
        cuts = []
        for k in range(0, len(data), 2):
            dets = labels[k]
            if not len(dets):
                continue
            overlap = iou_matrix(dets, dets) - np.eye(len(dets))
            for i, det in enumerate(dets):
                if det[4] < 0.55 or overlap[i].max() > 0.02:
                    continue
                x1, y1, x2, y2 = det[:4].round().astype(int)
                if x2 - x1 < 8 or y2 - y1 < 12:
                    continue
                patch = data[k, 0, y1:y2, x1:x2].astype(np.int16)
                diff = np.abs(patch - ground[y1:y2, x1:x2]).max(2)
                mask = (diff > 16).astype(np.uint8) * 255
                mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE,
                                        np.ones((5, 5), np.uint8))
                mask = cv2.medianBlur(mask, 3)
                if 0.3 < (mask > 0).mean() < 0.92:
                    cuts.append((k, (x1, y1, x2, y2), mask, det[5]))
        return cuts

    def pick_variant(self):
        if self.rng.random() < 0.35:
            return 0
        return 1 + self.rng.integers(len(QUANTISERS))

    def crop(self, out_w, out_h):
        rng = self.rng
        clip = rng.choice(len(self.clips), p=self.weights)
        name, data, labels, fit, _ = self.clips[clip]
        k = rng.integers(len(data))
        img = data[k, self.pick_variant()]
        dets = labels[k]
        if name == "vtest":
            zoom = np.exp(rng.normal(0.0, 0.20))
        else:
            zoom = np.exp(rng.normal(0.15, 0.45 if self.broad else 0.30))
        scale = fit * np.clip(zoom, 0.55, 2.0)
        sx = scale * np.exp(rng.normal(0, 0.05))
        sy = scale * np.exp(rng.normal(0, 0.05))
        h, w = img.shape[:2]
        # the crop sometimes reaches over the edge, as a letterbox bar does
        if len(dets) and rng.random() < 0.6:
            det = dets[rng.integers(len(dets))]
            cx = (det[0] + det[2]) / 2 * sx + rng.normal(0, out_w / 4)
            cy = (det[1] + det[3]) / 2 * sy + rng.normal(0, out_h / 4)
        else:
            cx, cy = rng.random() * w * sx, rng.random() * h * sy
        slack = 0.12
        ox = np.clip(cx - out_w / 2, -slack * out_w,
                     max(-slack * out_w, w * sx - (1 - slack) * out_w))
        oy = np.clip(cy - out_h / 2, -slack * out_h,
                     max(-slack * out_h, h * sy - (1 - slack) * out_h))
        flip = rng.random() < 0.5
        matrix = np.array([[sx, 0, -ox], [0, sy, -oy]], np.float32)
        if flip:
            matrix[0] = [-sx, 0, out_w - 1 + ox]
        pic = cv2.warpAffine(img, matrix, (out_w, out_h),
                             flags=cv2.INTER_LINEAR,
                             borderMode=cv2.BORDER_CONSTANT,
                             borderValue=(PAD,) * 3)
        rows = np.zeros((len(dets), 7), np.float32)
        rows[:, :6] = dets
        rows[:, [0, 2]] = dets[:, [0, 2]] * sx - ox
        rows[:, [1, 3]] = dets[:, [1, 3]] * sy - oy
        if flip:
            rows[:, [0, 2]] = out_w - rows[:, [2, 0]]
        full = np.prod(rows[:, 2:4] - rows[:, :2], axis=1)
        rows[:, [0, 2]] = rows[:, [0, 2]].clip(0, out_w)
        rows[:, [1, 3]] = rows[:, [1, 3]].clip(0, out_h)
        side = np.clip(rows[:, 2:4] - rows[:, :2], 0, None)
        seen = np.prod(side, axis=1) / np.maximum(full, 1e-6)
        small = np.sqrt(np.prod(side, axis=1)) < 7
        rows[:, 6] = ((seen < 0.45) | small).astype(np.float32)
        return pic, rows[seen > 0.1]

    def paste(self, pic, rows):
        """Paste a few cut-out objects where they hide nothing."""
        rng = self.rng
        for _ in range(rng.integers(1, 5)):
            if self.vehicles and rng.random() < 0.5:
                source, cut = self.vehicles[rng.integers(len(self.vehicles))]
            else:
                source = self.clips[0 if rng.random() < 0.7 else 1]
                if not source[4]:
                    continue
                cut = source[4][rng.integers(len(source[4]))]
            k, (x1, y1, x2, y2), mask, cls = cut
            if mask is None:      # a vehicle: the box with soft corners
                mask = np.zeros((y2 - y1, x2 - x1), np.uint8)
                cv2.rectangle(mask, (2, 2), (x2 - x1 - 3, y2 - y1 - 3),
                              255, -1)
                mask = cv2.GaussianBlur(mask, (5, 5), 0)
            patch = source[1][k, self.pick_variant(), y1:y2, x1:x2]
            zoom = source[3] * np.exp(rng.normal(0, 0.25))
            pw = max(6, round((x2 - x1) * zoom))
            ph = max(6, round((y2 - y1) * zoom))
            if pw >= self.size // 2 or ph >= self.size // 2:
                continue
            px = rng.integers(0, self.size - pw)
            py = rng.integers(0, self.size - ph)
            box = np.array([[px, py, px + pw, py + ph, 0.85, cls, 0]],
                           np.float32)
            if len(rows) and iou_matrix(box, rows).max() > 0.05:
                continue
            patch = cv2.resize(patch, (pw, ph)).astype(np.float32)
            alpha = cv2.resize(mask, (pw, ph))
            alpha = cv2.GaussianBlur(alpha, (3, 3), 0)[..., None] / 255.0
            if rng.random() < 0.5:
                patch, alpha = patch[:, ::-1], alpha[:, ::-1]
            patch = np.clip(patch * np.exp(rng.normal(0, 0.15)), 0, 255)
            spot = pic[py:py + ph, px:px + pw]
            spot[:] = (patch * alpha + spot * (1 - alpha)).astype(np.uint8)
            rows = np.concatenate([rows, box])
        return rows

    def colour(self, pic):
        rng = self.rng
        x = pic
        roll = rng.random()
        if roll < 0.10:
            x = cv2.GaussianBlur(x, (0, 0), rng.uniform(0.4, 1.3))
        elif roll < 0.18:
            q = int(rng.integers(25, 80))
            code = cv2.imencode(".jpg", x, [cv2.IMWRITE_JPEG_QUALITY, q])[1]
            x = cv2.imdecode(code, cv2.IMREAD_COLOR)
        x = x.astype(np.float32)
        if self.broad and rng.random() < 0.25:
            x = x[..., rng.permutation(3)]
        if rng.random() < 0.12:
            x = np.repeat(x.mean(2, keepdims=True), 3, axis=2)
        elif rng.random() < 0.6:
            grey = x.mean(2, keepdims=True)
            x = grey + (x - grey) * rng.uniform(0.5, 1.5)
            x = x * np.exp(rng.normal(0, 0.06, 3)).astype(np.float32)
        if rng.random() < 0.7:
            mean = x.mean()
            x = (x - mean) * np.exp(rng.normal(0, 0.2)) + mean \
                * np.exp(rng.normal(0, 0.22))
        if rng.random() < 0.1:
            noise = rng.normal(0, rng.uniform(2, 8), x.shape[:2])
            x = x + noise[..., None].astype(np.float32)
        return np.clip(x, 0, 255)

    def sample(self):
        n, rng = self.size, self.rng
        if rng.random() < 0.25:
            pic = np.empty((n, n, 3), np.uint8)
            parts = []
            mx, my = rng.integers(n * 3 // 10, n * 7 // 10, 2)
            for x, y, w, h in ((0, 0, mx, my), (mx, 0, n - mx, my),
                               (0, my, mx, n - my), (mx, my, n - mx, n - my)):
                sub, rows = self.crop(int(w), int(h))
                pic[y:y + h, x:x + w] = sub
                rows[:, :4] += [x, y, x, y]
                parts.append(rows)
            rows = np.concatenate(parts)
        else:
            pic, rows = self.crop(n, n)
        if rng.random() < 0.35:
            rows = self.paste(pic, rows)
        return self.colour(pic), rows


# Box sizes (square root of the area, pixels) each stride answers for.
RANGES = ((0, 46), (34, 120), (92, 1e9))


def make_targets(rows, size):
    """Per cell: objectness target, its weight, box (x1..y2), class, box
    weight.  Cells near the middle of a box are positive; the ring around
    them and cells of ignored boxes take no part."""
    parts = []
    order = np.argsort(rows[:, 4], kind="stable") if len(rows) else []
    for s, (low, high) in zip(STRIDES, RANGES):
        g = size // s
        target = np.zeros((g, g, 8), np.float32)
        target[..., 1] = 1.0
        dist = np.full((g, g), 9.0, np.float32)
        centre = (np.arange(g) + 0.5) * s
        for i in order:
            x1, y1, x2, y2, score, cls, ignore = rows[i]
            if ignore:
                inside = ((centre[:, None] > y1) & (centre[:, None] < y2)
                          & (centre[None] > x1) & (centre[None] < x2)
                          & (target[..., 7] == 0))
                target[inside, 1] = 0.0
                continue
            extent = np.sqrt(max(1.0, (x2 - x1) * (y2 - y1)))
            if not low <= extent < high:
                continue
            cx, cy = (x1 + x2) / 2, (y1 + y2) / 2
            d = np.maximum(np.abs(centre[None] - cx),
                           np.abs(centre[:, None] - cy)) / s
            ring = (d < 1.4) & (dist > 1.0) & (target[..., 7] == 0)
            target[ring, 1] = 0.0
            hit = (d < 1.0) & (d < dist)
            dist[hit] = d[hit]
            target[hit] = (score, 1.0, x1, y1, x2, y2, cls,
                           score if score >= 0.12 else 0.0)
        parts.append(target.reshape(-1, 8))
    return np.concatenate(parts)


# --------------------------------------------------------------------------
# Network
# --------------------------------------------------------------------------

def build_network():
    import torch
    from torch import nn
    import torch.nn.functional as F

    def conv(cin, cout, k, stride=1):
        return nn.Sequential(
            nn.Conv2d(cin, cout, k, stride, k // 2, bias=False),
            nn.BatchNorm2d(cout, momentum=0.03), nn.ReLU(inplace=True))

    class Residual(nn.Module):
        def __init__(self, width, mid):
            super().__init__()
            self.body = nn.Sequential(conv(width, mid, 1), conv(mid, width, 3))

        def forward(self, x):
            return x + self.body(x)

    class StreetNano(nn.Module):
        def __init__(self):
            super().__init__()
            self.input_scale = 1 / 128    # export moves it into the stem
            self.stem = nn.Sequential(conv(3, 16, 3, 2), conv(16, 16, 3, 2))
            self.c3 = nn.Sequential(conv(16, 48, 3, 2),
                                    Residual(48, 16), Residual(48, 16))
            self.c4 = nn.Sequential(conv(48, 96, 3, 2),
                                    Residual(96, 48), Residual(96, 48))
            self.c5 = nn.Sequential(conv(96, 128, 3, 2),
                                    Residual(128, 64), Residual(128, 64))
            self.side3 = conv(48, 48, 1)
            self.side4 = conv(96, 48, 1)
            self.side5 = conv(128, 48, 1)
            self.heads = nn.ModuleList()
            for _ in STRIDES:
                last = nn.Conv2d(32, 5 + len(CLASSES), 1)
                nn.init.normal_(last.weight, 0, 0.01)
                nn.init.constant_(last.bias, 0.0)
                last.bias.data[:2] = 0.5
                last.bias.data[2:4] = 1.0
                last.bias.data[4] = -4.6
                self.heads.append(nn.Sequential(conv(48, 32, 3), last))

        def forward(self, x):
            """Input BGR 0..255; output [batch, cells, 7] before sigmoid."""
            if self.input_scale != 1:
                x = x * self.input_scale
            x = self.stem(x)
            c3 = self.c3(x)
            c4 = self.c4(c3)
            p5 = self.side5(self.c5(c4))
            p4 = self.side4(c4) + F.interpolate(p5, scale_factor=2.0)
            p3 = self.side3(c3) + F.interpolate(p4, scale_factor=2.0)
            outs = [head(p) for head, p in zip(self.heads, (p3, p4, p5))]
            # int() keeps the cell counts constant in the exported graph
            outs = [o.reshape(-1, 5 + len(CLASSES),
                              int(o.shape[2]) * int(o.shape[3]))
                    for o in outs]
            return torch.cat(outs, 2).transpose(1, 2)

    return StreetNano()


def cell_grid(height, width):
    import torch
    rows = []
    for s in STRIDES:
        gy, gx = torch.meshgrid(torch.arange(height // s),
                                torch.arange(width // s), indexing="ij")
        rows.append(torch.stack([gx.flatten(), gy.flatten(),
                                 torch.full((gx.numel(),), s)], 1))
    return torch.cat(rows).float()


def loss_function(out, target, cells):
    import torch
    import torch.nn.functional as F
    obj_t, obj_w = target[..., 0], target[..., 1]
    box_w = target[..., 7]
    norm = box_w.sum().clamp(min=1.0)
    obj = F.binary_cross_entropy_with_logits(
        out[..., 4], obj_t, weight=obj_w, reduction="sum") / norm
    pos = box_w > 0
    p, t, w = out[pos], target[pos], box_w[pos]
    g = cells.expand(out.shape[0], -1, -1)[pos]
    centre = (p[:, :2] + g[:, :2]) * g[:, 2:]
    half = torch.exp(p[:, 2:4].clamp(-4, 5)) * g[:, 2:] / 2
    lt, rb = centre - half, centre + half
    tlt, trb = t[:, 2:4], t[:, 4:6]
    inter = (torch.minimum(rb, trb) - torch.maximum(lt, tlt)).clamp(min=0)
    inter = inter.prod(1)
    union = (rb - lt).prod(1) + (trb - tlt).prod(1) - inter
    hull = (torch.maximum(rb, trb) - torch.minimum(lt, tlt)).prod(1)
    iou = inter / union.clamp(min=1e-6)
    giou = iou - (hull - union) / hull.clamp(min=1e-6)
    box = ((1 - giou) * w).sum() / norm
    onehot = F.one_hot(t[:, 6].long(), len(CLASSES)).float()
    cls = (F.binary_cross_entropy_with_logits(
        p[:, 5:], onehot, reduction="none").mean(1) * w).sum() / norm
    return obj + 3.0 * box + cls, obj, box, cls


# --------------------------------------------------------------------------
# Training
# --------------------------------------------------------------------------

def train(args):
    import torch
    from torch.utils.data import DataLoader, IterableDataset

    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)

    class Stream(IterableDataset):
        def __iter__(self):
            info = torch.utils.data.get_worker_info()
            number = info.id if info else 0
            torch.set_num_threads(1)
            sampler = Sampler(args.work, args.size,
                              [args.seed, number, 0], args.broad)
            while True:
                pic, rows = sampler.sample()
                yield (torch.from_numpy(pic.astype(np.uint8)),
                       torch.from_numpy(make_targets(rows, args.size)))

    net = build_network().to(memory_format=torch.channels_last)
    if args.init:
        net.load_state_dict(torch.load(args.init))
    ema = {k: v.clone() for k, v in net.state_dict().items()}
    decay_on = [p for n, p in net.named_parameters() if p.ndim > 1]
    decay_off = [p for n, p in net.named_parameters() if p.ndim <= 1]
    opt = torch.optim.AdamW([
        {"params": decay_on, "weight_decay": 0.02},
        {"params": decay_off, "weight_decay": 0.0}], lr=args.lr)
    cells = cell_grid(args.size, args.size)
    batches = iter(DataLoader(Stream(), args.batch,
                              num_workers=args.workers,
                              prefetch_factor=4 if args.workers else None))
    net.train()
    start, means = time.time(), np.zeros(4)
    total = args.iters * args.cycles
    for it in range(total):
        cycle, at = divmod(it, args.iters)
        peak = args.lr if cycle == 0 else args.lr * 0.7
        warm = min(1.0, (at + 1) / args.warmup)
        rate = peak * warm * (0.02 + 0.98 * 0.5
                              * (1 + np.cos(np.pi * at / args.iters)))
        for group in opt.param_groups:
            group["lr"] = rate
        pics, target = next(batches)
        x = pics.permute(0, 3, 1, 2).float()
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            out = net(x)
        loss, *terms = loss_function(out.float(), target, cells)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 10.0)
        opt.step()
        keep = min(0.995, (it + 1) / (it + 10))
        with torch.no_grad():
            for k, v in net.state_dict().items():
                if v.dtype.is_floating_point:
                    ema[k].lerp_(v, 1 - keep)
                else:
                    ema[k].copy_(v)
        means += [loss.item(), *(t.item() for t in terms)]
        if (it + 1) % 50 == 0:
            m = means / 50
            means[:] = 0
            print(f"{it + 1}/{total} loss {m[0]:.3f} obj {m[1]:.3f} "
                  f"box {m[2]:.3f} cls {m[3]:.3f} lr {rate:.5f} "
                  f"{time.time() - start:.0f} s", flush=True)
        if (it + 1) % 250 == 0 or it + 1 == total:
            torch.save(ema, Path(args.work) / "ema.pt")
        if at + 1 == args.iters:
            torch.save(ema, Path(args.work) / f"cycle{cycle + 1}.pt")
        if it + 1 == args.stop:
            torch.save(ema, Path(args.work) / "ema.pt")
            break


# --------------------------------------------------------------------------
# Export
# --------------------------------------------------------------------------

def export(args):
    import onnx
    import torch
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    weights = args.weights or str(Path(args.work) / "ema.pt")
    net = build_network()
    net.load_state_dict(torch.load(weights))
    net.eval()

    def fold(module):
        for name, child in module.named_children():
            fold(child)
            if isinstance(child, nn.Sequential) and len(child) == 3 \
                    and isinstance(child[1], nn.BatchNorm2d):
                setattr(module, name, nn.Sequential(
                    fuse_conv_bn_eval(child[0], child[1]), child[2]))

    probe = torch.randint(0, 256, (1, 3, IN_H, IN_W)).float()

    class Deploy(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, images):
            out = self.inner(images)
            return torch.cat([out[..., :4], torch.sigmoid(out[..., 4:])], 2)

    with torch.no_grad():
        expected = Deploy(net)(probe).numpy()
        fold(net)
        net.stem[0][0].weight.mul_(net.input_scale)
        net.input_scale = 1

    torch.onnx.export(Deploy(net), (probe,), args.onnx,
                      input_names=["images"], output_names=["output"],
                      opset_version=13, dynamo=False)
    model = onnx.load(args.onnx)
    model.ir_version = min(model.ir_version, 8)
    model.producer_name = "gst-dds train.py"
    onnx.checker.check_model(model)
    onnx.save(model, args.onnx)

    session = ort.InferenceSession(args.onnx,
                                   providers=["CPUExecutionProvider"])
    got = session.run(None, {"images": probe.numpy()})[0]
    print(f"{args.onnx}: {os.path.getsize(args.onnx)} bytes, output "
          f"{got.shape}, opset {model.opset_import[0].version}, IR "
          f"{model.ir_version}, largest difference to torch "
          f"{np.abs(got - expected).max():.2e}")


# --------------------------------------------------------------------------
# Measuring
# --------------------------------------------------------------------------

def count_matches(student, teacher, iou_thr):
    """One-to-one, same class, best student score first."""
    hits = 0
    if len(student) and len(teacher):
        iou = iou_matrix(student, teacher)
        iou[student[:, None, 5] != teacher[None, :, 5]] = 0
        for i in np.argsort(-student[:, 4], kind="stable"):
            j = iou[i].argmax()
            if iou[i, j] >= iou_thr:
                hits += 1
                iou[:, j] = 0
    return hits


def score_run(students, teachers, thr, iou_thr, only=None, teacher_thr=0.3):
    """F1, precision, recall and number of teacher boxes over all frames."""
    hits = n_s = n_t = 0
    for s, t in zip(students, teachers):
        s, t = s[s[:, 4] >= thr], t[t[:, 4] >= teacher_thr]
        if only is not None:
            s, t = s[s[:, 5] == only], t[t[:, 5] == only]
        hits += count_matches(s, t, iou_thr)
        n_s, n_t = n_s + len(s), n_t + len(t)
    return (2 * hits / max(1, n_s + n_t), hits / max(1, n_s),
            hits / max(1, n_t), n_t)


def evaluate(args):
    student = Detector(args.onnx, args.threads)
    teacher = Detector(args.teacher, args.threads, coco=True)
    work = Path(args.work)
    work.mkdir(parents=True, exist_ok=True)
    jobs = [("vtest frames 530..794", args.vtest, 530, 795)]
    jobs += [(Path(p).stem, p, 0, None) for p in args.eval_clip]
    thresholds = (0.2, 0.25, 0.3, 0.35, 0.4)
    for title, path, first, end in jobs:
        frames = list(read_frames(path, first, end))
        cache = work / f"teacher_{Path(path).stem}_{first}.npz"
        if not cache.exists():
            plain = [teacher(f) for f in frames]
            mirror = []
            for f in frames:
                d = teacher(np.ascontiguousarray(f[:, ::-1]))
                d[:, [0, 2]] = f.shape[1] - d[:, [2, 0]]
                mirror.append(d)
            np.savez(cache, **{f"p{i}": d for i, d in enumerate(plain)},
                     **{f"m{i}": d for i, d in enumerate(mirror)})
        data = np.load(cache)
        plain = [data[f"p{i}"] for i in range(len(frames))]
        mirror = [data[f"m{i}"] for i in range(len(frames))]
        print(f"== {title}: {len(frames)} frames")
        runs = [("teacher, mirrored picture", mirror),
                ("student", [student(f) for f in frames])]
        for q in args.eval_qp:
            bad = encode_decode(frames, q, work)
            runs.append((f"student, H.264 QP {q}", [student(f) for f in bad]))
            runs.append((f"teacher, H.264 QP {q}", [teacher(f) for f in bad]))
        for label, dets in runs:
            best = max(thresholds,
                       key=lambda t: score_run(dets, plain, t, 0.5)[0])
            for thr in sorted({0.3, best}):
                f5, p5, r5, n = score_run(dets, plain, thr, 0.5)
                f3 = score_run(dets, plain, thr, 0.3)[0]
                print(f"  {label}: threshold {thr}"
                      f"{' (best)' if thr == best else ''}: F1@0.5 {f5:.3f} "
                      f"(precision {p5:.3f}, recall {r5:.3f}), F1@0.3 "
                      f"{f3:.3f}, {n} teacher boxes", flush=True)
                for number, name in enumerate(CLASSES):
                    f5, p5, r5, n = score_run(dets, plain, thr, 0.5, number)
                    print(f"      {name}: F1@0.5 {f5:.3f} (precision "
                          f"{p5:.3f}, recall {r5:.3f}), {n} teacher boxes")
        if args.draw:
            folder = Path(args.draw)
            folder.mkdir(parents=True, exist_ok=True)
            for i in np.linspace(0, len(frames) - 1, 4).astype(int):
                img = frames[i].copy()
                for dets, colour, thick in ((plain[i], (0, 255, 0), 1),
                                            (runs[1][1][i], (0, 0, 255), 2)):
                    for x1, y1, x2, y2, s, c in dets:
                        if s >= 0.3:
                            shade = (255, 0, 255) if c and thick == 2 \
                                else colour
                            cv2.rectangle(img, (int(x1), int(y1)),
                                          (int(x2), int(y2)), shade, thick)
                cv2.imwrite(str(folder / f"{Path(path).stem}_{i}.png"), img)


def bench(args):
    opts = ort.SessionOptions()
    opts.intra_op_num_threads = 1
    opts.inter_op_num_threads = 1
    session = ort.InferenceSession(args.onnx, opts,
                                   providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).integers(
        0, 256, (1, 3, IN_H, IN_W)).astype(np.float32)
    times = []
    for _ in range(200):
        start = time.perf_counter()
        session.run(None, {"images": x})
        times.append((time.perf_counter() - start) * 1e3)
    print(f"one thread: best {min(times):.2f} ms, median "
          f"{np.median(times):.2f} ms per frame")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("step", choices=("prepare", "train", "export", "eval",
                                         "bench", "all"))
    parser.add_argument("--work", default="work", help="scratch folder")
    parser.add_argument("--teacher", help="yolox_nano_736x1280.onnx")
    for name, *_ in CLIPS:
        parser.add_argument(f"--{name}", help=f"path of the {name} clip")
    parser.add_argument("--onnx", default="street_nano.onnx")
    parser.add_argument("--weights", help="export these (default: EMA)")
    parser.add_argument("--init", help="start training from these weights "
                        "of an earlier run of this script")
    parser.add_argument("--eval-clip", nargs="*", default=[])
    parser.add_argument("--eval-qp", nargs="*", type=int, default=[])
    parser.add_argument("--draw", help="folder for drawn pictures")
    parser.add_argument("--size", type=int, default=384)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--iters", type=int, default=1500,
                        help="iterations per cosine cycle")
    parser.add_argument("--stop", type=int, default=0,
                        help="end early, after this iteration")
    parser.add_argument("--cycles", type=int, default=1)
    parser.add_argument("--warmup", type=int, default=60)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--broad", action="store_true",
                        help="more variety: the second training run")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    steps = {"prepare": prepare, "train": train, "export": export,
             "eval": evaluate, "bench": bench}
    for name in (steps if args.step == "all" else [args.step]):
        steps[name](args)


if __name__ == "__main__":
    main()
