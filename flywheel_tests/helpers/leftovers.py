"""What launchers of distributed training leave in the environment, by launcher: as for the first of two processes."""

LEFTOVERS: dict[str, dict[str, str]] = {
    "torchrun": {
        "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "GROUP_WORLD_SIZE": "1",
        "ROLE_NAME": "default", "ROLE_RANK": "0", "ROLE_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517",
        "TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": "0", "TORCHELASTIC_MAX_RESTARTS": "0",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    },
    "accelerate": {
        "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517",
        "ACCELERATE_USE_FSDP": "true", "FSDP_SHARDING_STRATEGY": "FULL_SHARD", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
        "ACCELERATE_MIXED_PRECISION": "fp16", "ACCELERATE_TORCH_DEVICE": "cuda:3", "ACCELERATE_DYNAMO_BACKEND": "INDUCTOR",
        "ACCELERATE_DYNAMO_MODE": "default", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
        "ACCELERATE_USE_PARALLELISM_CONFIG": "true", "PARALLELISM_CONFIG_TP_SIZE": "2",
    },
    "deepspeed": {
        "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "CROSS_RANK": "0", "LOCAL_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29517", "ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3",
    },
    "mpirun": {
        "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
        "OMPI_COMM_WORLD_LOCAL_RANK": "0", "PMIX_RANK": "0", "PMI_SIZE": "2", "PMI_RANK": "0", "MPI_LOCALRANKID": "0",
        "MV2_COMM_WORLD_SIZE": "2", "MV2_COMM_WORLD_RANK": "0", "CCL_WORKER_COUNT": "1",
    },
    "srun": {
        "SLURM_JOB_ID": "17", "SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODELIST": "node[1-2]",
        "SLURM_STEP_NODELIST": "node[1-2]", "PMI_SIZE": "2", "PMI_RANK": "0", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29517",
    },
    "reporters": {
        "WANDB_PROJECT": "other", "WANDB_MODE": "online", "WANDB_API_KEY": "secret", "COMET_API_KEY": "secret",
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "CLEARML_PROJECT": "other", "TRACKIO_PROJECT": "other",
        "CODECARBON_LOG_LEVEL": "error",
    },
}  # fmt: skip
EVERY_LEFTOVER = {name: value for each in LEFTOVERS.values() for name, value in each.items()}
