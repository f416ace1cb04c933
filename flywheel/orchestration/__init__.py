"""Everything that imports dagster: assets, checks, partitions, sensors, schedules, jobs, and the instance they live on."""
