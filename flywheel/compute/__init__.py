"""Where a training job runs: launched here, watched until it ends, its progress passed on as plain events."""
