"""How the synthetic pictures are drawn; `make_scenes` and `make_jigsaw` beside this folder write them to files."""
