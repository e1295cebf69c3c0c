"""Effective dimension, and what an index cannot see of a query, against dense float64 and against sketches drawn."""

import numpy as np
import pytest
import torch

from conftest import MODEL_KINDS as _  # noqa: F401
