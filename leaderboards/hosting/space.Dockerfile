# Builds the site when the Space is built, and serves it.
FROM python:3.12-slim
RUN apt-get update -qq && apt-get install -qq -y --no-install-recommends bubblewrap git openssh-client
COPY requirements.txt /board/requirements.txt
RUN pip install --quiet --no-cache-dir --no-deps -r /board/requirements.txt
COPY . /board
RUN moemix board build /board --out /site
CMD ["moemix", "board", "serve", "/site", "--host", "0.0.0.0", "--port", "7860"]
