"""A Hugging Face dataset of pictures and captions gets a column of latents; a dataset with latents gets its pictures back.

    textok embed captions.txt --out store
    python hf_datasets.py imagefolder-or-name --embeddings store --caption text --out with-latents

Needs datasets. `map` keeps what it has computed in its own cache.
"""

import argparse

import datasets
import numpy as np
from PIL import Image

import textok
from textok.conditions import full_text


def with_latents(dataset, model, embeddings, image="image", caption="caption", batch_size=32):
    """The dataset with a column "latent", float32 [N,d]."""

    def encode(rows):
        text, lengths = embeddings.embeddings(rows[caption])
        text = full_text(text, model.config.num_text_tokens, model.config.text_mask)
        pictures = textok.preprocess(rows[image], model.config.image_size)
        return {"latent": list(model.encode(pictures, text, lengths))}

    latent = datasets.Array2D(model.config.latent_shape, "float32")
    features = datasets.Features({**dataset.features, "latent": latent})
    return dataset.map(encode, batched=True, batch_size=batch_size, features=features)


def with_pictures(dataset, model, embeddings, caption="caption", batch_size=32):
    """The dataset with a column "reconstruction" of pictures, made of "latent"."""

    def decode(rows):
        text, lengths = embeddings.embeddings(rows[caption])
        text = full_text(text, model.config.num_text_tokens, model.config.text_mask)
        pictures = model.decode(np.asarray(rows["latent"], np.float32), text, lengths)
        return {"reconstruction": [Image.fromarray(picture) for picture in pictures]}

    features = datasets.Features({**dataset.features, "reconstruction": datasets.Image()})
    return dataset.map(decode, batched=True, batch_size=batch_size, features=features)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", help="as load_dataset takes it")
    parser.add_argument("--split", default="train")
    parser.add_argument("--model", default="emoji-textok")
    parser.add_argument("--embeddings", required=True)
    parser.add_argument("--image", default="image")
    parser.add_argument("--caption", default="caption")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    model, embeddings = textok.TexTok.from_pretrained(args.model), textok.open_embeddings(args.embeddings)
    dataset = datasets.load_dataset(args.dataset, split=args.split)
    dataset = with_latents(dataset, model, embeddings, args.image, args.caption)
    dataset = with_pictures(dataset, model, embeddings, args.caption)
    dataset.save_to_disk(args.out)
    print(dataset)


if __name__ == "__main__":
    main()
