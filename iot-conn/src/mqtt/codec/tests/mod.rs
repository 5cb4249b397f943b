mod malformed;
mod round_trip;
