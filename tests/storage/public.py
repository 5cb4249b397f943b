"""Writes weather of vega-datasets as rows that `storage` reads: hourly temperatures of two cities, daily weather of one."""

import sys

import numpy
from vega_datasets import data

from peers import ROW


def rows(device, frame, columns):
    found = numpy.zeros(len(frame), ROW)
    found["device"] = device
    found["ts"] = frame["date"].astype("datetime64[us]").astype("int64")
    for number, name in enumerate(ROW.names[2:]):
        found[name] = frame[columns[number]] if number < len(columns) else numpy.nan
    return found


numpy.concatenate([
    rows(1, data.seattle_temps(), ["temp"]),
    rows(2, data.sf_temps(), ["temp"]),
    rows(3, data.seattle_weather(), ["precipitation", "temp_max", "temp_min", "wind"]),
]).tofile(sys.argv[1])
