mod generator;
mod malformed;
mod oracles;
mod round_trip;
