"""The study of freezing soil: soil with a known law, the real record, and bad files."""

import csv
import json
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from pyadjoint import taylor_test

import femnn
from demos.studies.soil import __main__ as soil
from demos.studies.soil.data import DEPTHS_CM, Record, Winters, read_record
from demos.studies.soil.fitting import errors_of
from demos.studies.soil.laws import HandLaws, HybridLaws, NetworkLaws
from demos.studies.soil.model import Columns

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "data" / "fargo_soil_temperature.csv"
DEPTHS = np.array(DEPTHS_CM) / 100
N_DAYS = 40  # in each made winter
WATER = (1.5, 0.8, 1.0, 1.2)
NOISE = 0.03


def made_record(n_winters=4):
    """Soil that freezes in short winters by a hand-made law, with another water in each."""
    n = n_winters * N_DAYS + n_winters // 2 - 1
    days = np.arange(n + 1)
    random = np.random.default_rng(1)
    top = 3 + 8 * np.cos(2 * np.pi * days / N_DAYS) + random.normal(0, 1, n + 1)
    bottom = 5 + 0.5 * np.sin(2 * np.pi * days / N_DAYS)
    share = (DEPTHS - DEPTHS[0]) / np.ptp(DEPTHS)
    filled = top[:, None] * (1 - share) + bottom[:, None] * share
    record = Record(date(2014, 10, 2), DEPTHS, filled.copy(), filled, "")
    winters = Winters(record)
    for start, water in zip(winters.fitted + winters.held_out, WATER, strict=False):
        columns = Columns(record, known_law(), [start], N_DAYS)
        columns.log_w.assign(np.log([water]))
        filled[start + 1 : start + N_DAYS + 1, 1:-1] = columns.simulate()[:, 0]
    record.measured[:] = filled
    record.measured[:, 1:-1] += random.normal(0, NOISE, (n + 1, 12))
    return record


def known_law():
    laws = HandLaws()
    with torch.no_grad():
        laws.log_k.copy_(torch.linspace(0.3, -0.3, 8))
        laws.freezing.copy_(torch.tensor([-0.5, -0.3, 0.2, 0.4]))
    return laws
