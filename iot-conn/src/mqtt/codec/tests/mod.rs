mod generator;
mod malformed;
mod round_trip;
