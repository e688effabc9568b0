"""PCA of pictures: as many numbers as a tokenizer has latents, the baseline below which a model was not trained enough to say
anything."""

import numpy as np
import torch

from textok.pictures.preprocess import to_uint8


def fit_pca(images, numbers, seed=0):
    """Mean [n] and principal directions [n,numbers] of uint8 pictures in [-1,1]; a randomised SVD with 8 power iterations."""
    flat = torch.from_numpy(np.asarray(images).reshape(len(images), -1)).float() / 127.5 - 1
    mean = flat.mean(dim=0)
    torch.manual_seed(seed)
    directions = torch.svd_lowrank(flat - mean, numbers + 32, niter=8)[2]
    return mean.numpy(), directions[:, :numbers].numpy()


def pca_pictures(images, mean, directions):
    """uint8 [n,S,S,3] through the PCA and back."""
    flat = images.reshape(len(images), -1) / np.float32(127.5) - 1
    return to_uint8((flat - mean) @ directions @ directions.T + mean).reshape(images.shape)
