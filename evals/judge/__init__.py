"""Open-ended answers, judged: benches, answers, judges, and the judge itself measured."""
