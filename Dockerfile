# The image of every pod, head and workers alike: docker build -t drafthouse:cpu .
# For NVIDIA GPUs: docker build -t drafthouse:cuda --build-arg ACCELERATOR=cuda .
FROM python:3.11-slim-bookworm

# cpu or cuda
ARG ACCELERATOR=cpu

# KubeRay's probes call wget. Triton compiles its launchers with a C compiler when kernels are first used.
RUN case "$ACCELERATOR" in \
        cpu) compiler="" ;; \
        cuda) compiler="gcc libc6-dev" ;; \
        *) echo "ACCELERATOR is cpu or cuda, not $ACCELERATOR" >&2; exit 1 ;; \
    esac \
    && apt-get update \
    && apt-get install -y --no-install-recommends wget $compiler \
    && rm -rf /var/lib/apt/lists/*

# The home holds caches: compiled kernels, latency profiles.
RUN useradd --uid 1000 --user-group --create-home drafthouse

# The greatest layer, rebuilt only when a pin changes. Without the first step torch brings CUDA's libraries with it.
RUN --mount=type=bind,source=requirements.txt,target=/mnt/requirements.txt \
    if [ "$ACCELERATOR" = cpu ]; then \
        pip install --no-cache-dir --no-deps --index-url https://download.pytorch.org/whl/cpu torch==2.13.0; \
    fi \
    && pip install --no-cache-dir -r /mnt/requirements.txt

# Into site-packages, and its commands into /usr/local/bin: KubeRay chooses the shell and the working directory.
# What the build writes into the sources is not kept.
RUN --mount=type=bind,target=/mnt/source,rw \
    pip install --no-cache-dir --no-deps --no-build-isolation /mnt/source \
    && python -c "import deployments.app" \
    && install -d /etc/drafthouse \
    && sed 's/^        host: 127\.0\.0\.1$/        host: 0.0.0.0/' /mnt/source/deployments/serve_config.yaml \
        > /etc/drafthouse/serve_config.yaml \
    && grep -q '^        host: 0\.0\.0\.0$' /etc/drafthouse/serve_config.yaml

# The native decoder for every level of x86-64 that a node may have; the compiler goes again.
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && python -m drafthouse.engine.native.library --all \
    && apt-get purge -y g++ && apt-get autoremove -y \
    && rm -rf /var/lib/apt/lists/*

USER 1000:1000
WORKDIR /home/drafthouse
ENV PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

EXPOSE 8000 9000 8265
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s \
    CMD ["wget", "-q", "-T", "2", "-O", "/dev/null", "http://127.0.0.1:8000/-/healthz"]

# Without Kubernetes: everything in one container. KubeRay puts `ray start` in the command's place.
CMD ["drafthouse", "serve", "--config", "/etc/drafthouse/serve_config.yaml"]
