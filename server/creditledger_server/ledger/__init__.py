"""Use cases: what happens to a request between its arrival and its answer. Knows neither grpc nor SQL."""
