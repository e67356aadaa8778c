# A tiny night on one GPU, for `helm test`: `sh -e tiny-night.sh BACKBONE`. One image of noise, synthetic weights; nothing
# of it leaves the pod. The extractor checks its GPU's arithmetic before it counts on it, and ends with 0 if all went well.
place=$(mktemp -d)
mkdir "$place/images"
checkpoint=$place/$(python3 -c '
import sys
from PIL import Image
from extractor.core import backbone_specs
Image.effect_noise((640, 480), 90).convert("RGB").save(sys.argv[2])
print(backbone_specs.specs()[sys.argv[1]].checkpoint)
' "$1" "$place/images/noise.jpg")
extractor weights make "$1" "$checkpoint"
extractor run --backbone "$1" --images "$place/images" --weights "$checkpoint" --output "$place/features.h5"
extractor inspect "$place/features.h5"
