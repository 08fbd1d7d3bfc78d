# latewood serve on a CPU. Indexes lie in the volume /indexes; the token is a secret, or LATEWOOD_TOKEN.
FROM python:3.13-slim AS build
WORKDIR /src
COPY . .
RUN python -m venv /opt/latewood \
    && /opt/latewood/bin/pip install --no-cache-dir torch --index-url https://download.pytorch.org/whl/cpu \
    && /opt/latewood/bin/pip install --no-cache-dir '.[cpu,code,serve]'

FROM python:3.13-slim
COPY --from=build /opt/latewood /opt/latewood
RUN useradd --create-home --uid 10001 latewood && install -d -o latewood /indexes /cache
ENV PATH=/opt/latewood/bin:$PATH LATEWOOD_CACHE=/cache NUMBA_CACHE_DIR=/cache/numba PYTHONUNBUFFERED=1
USER 10001
VOLUME ["/indexes", "/cache"]
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
ENTRYPOINT ["latewood", "serve", "--host", "0.0.0.0"]
CMD ["docs=/indexes/docs.index"]
