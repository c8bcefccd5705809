"""Read annotation files of other formats into COCO dicts, and write them."""
