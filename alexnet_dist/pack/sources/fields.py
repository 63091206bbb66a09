"""Which parts of a sample hold its image and its label, where the user says so."""

from __future__ import annotations

from dataclasses import dataclass

from alexnet_dist.errors import UserError


@dataclass(frozen=True)
class SampleFields:
    """The fields of a sample in shards, or the columns of a table, that hold its image and its label.

    In shards a field is what follows the key in a member's name, such as ``jpg`` or ``outputs.cls``. A label in a
    ``.json`` member is given with its key, as in ``json:label``. None: detected.
    """

    image: str | None = None
    label: str | None = None

    @property
    def image_members(self) -> tuple[str, ...]:
        """The image's fields as the ends of members' names, in lower case; several are separated by semicolons."""
        return () if self.image is None else tuple(_member_field(field, self.image) for field in self.image.split(";"))

    @property
    def label_member(self) -> str | None:
        """The label's field as the end of a member's name; ``meta.json`` for ``meta.json:label``."""
        if self.label is None:
            return None
        member, colon, _ = self.label.partition(":")
        return _member_field(member if colon else self.label, self.label)

    @property
    def json_key(self) -> str | None:
        """The key of the label in a .json member; None where the member's text is the label."""
        if self.label is None or ":" not in self.label:
            return None
        member, _, key = self.label.partition(":")
        if not key or not f".{member}".lower().endswith(".json"):
            raise UserError(f"--label-field {self.label}: expected a field such as cls, or a key of one as json:label")
        return key


DETECTED = SampleFields()


def _member_field(field: str, option: str) -> str:
    name = field.removeprefix(".").lower()
    if not name or "/" in name or name != name.strip():
        raise UserError(
            f"{option!r}: expected a field such as jpg or input.jpg: what follows the key in a member's name"
        )
    return name
