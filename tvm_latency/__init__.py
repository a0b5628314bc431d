"""From an operator to seconds: lower, schedule, build, measure, predict."""
