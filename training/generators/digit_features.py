"""The feature network of `features=digits`: trained on the embedded digits in seconds, registered once, then reused."""

import hashlib
from pathlib import Path

import torch
import torch.nn.functional as F

from common.errors import InputError
from common.files import hash_of
from data.images.load import ImageSet, load_images
from evaluation.features import Extractor, network_extractor
from models.gan.digit_classifier import DigitClassifier, DigitFeatures
from tracking.registry.models import load_weights, log_model, newest_model
from tracking.run import AnyRun

REGISTERED_NAME = "digits-features"
IMAGE_SIZE, EPOCHS, BATCH_SIZE, LEARNING_RATE, SEED, SHIFT = 32, 15, 64, 0.002, 0, 2
RECIPE = ["DigitClassifier 1", IMAGE_SIZE, EPOCHS, BATCH_SIZE, LEARNING_RATE, SEED, SHIFT]


def digits_extractor(run: AnyRun, cache_dir: Path, device: torch.device) -> Extractor:
    """The registered feature network of this recipe and this data. If there is none yet, it is trained and registered.

    It is not trained anew for each run: threads and machines change the last bits of training, and scores can be
    compared only in the very same features.
    """
    train = digit_images("train", cache_dir)
    recipe = hash_of([RECIPE, train.fingerprint])
    classifier = DigitClassifier()
    try:
        uri = newest_model(REGISTERED_NAME, recipe=recipe).uri
        state, facts = load_weights(uri)
        classifier.load_state_dict(state)
        accuracy = float(facts["test_accuracy"])
    except InputError:
        classifier, accuracy = train_classifier(cache_dir)
        info = log_model(
            run=run,
            module=classifier,
            name="digits_features",
            example=train.pixels[:4].astype("float32") / 127.5 - 1,
            registered_name=REGISTERED_NAME,
            config={"class": "digit-classifier", "test_accuracy": accuracy},
            metrics={"features_test_accuracy": accuracy},
            tags={"recipe": recipe, "dataset": "digits"},
        )
        uri = info.uri or "not registered"
    print(f"features=digits: {uri}, a classifier with accuracy {accuracy:.3f} on the digits' test split")
    weights = b"".join(p.detach().numpy().tobytes() for p in classifier.parameters())
    fingerprint = hash_of([recipe, hashlib.sha256(weights).hexdigest()])
    return network_extractor(
        name="digits",
        network=DigitFeatures(classifier.to(device).eval()),
        fingerprint=fingerprint,
        family=f"classifier of the embedded digits, {uri}",
        device=device,
    )


def digit_images(split: str, cache_dir: Path) -> ImageSet:
    """The digits as the classifier sees them."""
    return load_images(dataset="digits", image_size=IMAGE_SIZE, split=split, cache_dir=cache_dir, progress=False)


def train_classifier(cache_dir: Path) -> tuple[DigitClassifier, float]:
    """(the classifier, its accuracy on the test split), trained on the train split with random shifts."""
    train, test = digit_images("train", cache_dir), digit_images("test", cache_dir)
    assert train.labels is not None
    assert test.labels is not None
    x, y = torch.from_numpy(train.pixels.copy()).float() / 127.5 - 1, torch.from_numpy(train.labels)
    generator = torch.Generator().manual_seed(SEED)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        classifier = DigitClassifier()
    optimizer = torch.optim.Adam(classifier.parameters(), lr=LEARNING_RATE)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x), generator=generator).split(BATCH_SIZE):
            dx, dy = torch.randint(-SHIFT, SHIFT + 1, (2,), generator=generator).tolist()
            optimizer.zero_grad()
            F.cross_entropy(classifier(x[rows].roll((dy, dx), dims=(2, 3))), y[rows]).backward()
            optimizer.step()
    with torch.no_grad():
        held_out = torch.from_numpy(test.pixels.copy()).float() / 127.5 - 1
        accuracy = float((classifier(held_out).argmax(1) == torch.from_numpy(test.labels)).double().mean())
    return classifier.eval(), accuracy
