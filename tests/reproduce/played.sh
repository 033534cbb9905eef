#!/bin/sh
# What takes Python's place in a plan, but for the door and Snakemake: the tables of a dry run; a training's speed, which kl's fails to tell; an inference's.
told() { printf 'Dry run: %s, official, m\n items of the plan  %s\n total  %s  67,108,864\n' $1 $2 $3; }
case "$*" in
workflow/*|*snakemake*) exec REAL "$@" ;;
*--multirun*) told popd 3,600 131,072; told kl 5,400 65,536; told ga 7,200 65,536 ;;
*forget_loss=kl*) exit 1 ;;
*forget.py*)
  case "$*" in *=popd*) speed=2.0 ;; *) speed=5.0 ;; esac
  for word; do case "$word" in save_dir=*) folder=${word#save_dir=} ;; esac; done
  mkdir -p "$folder"; echo "{\"sittings\": [{\"items_per_second\": $speed}]}" > "$folder/run.json" ;;
*ckpt_infer.py*) echo '8 responses of process 1 of 2, 2.0 a second' >&2 ;;
esac
