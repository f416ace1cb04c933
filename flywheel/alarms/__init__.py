"""Alarms: the one sentence that an operator is told of an event, and who takes it there."""
