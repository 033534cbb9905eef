#!/bin/sh
# What takes Python's place: a training, off by a two-thousandth under an engine, that waits at its first checkpoint if it is to
# keep any. HERE is the folder with what it leaves.
name=alone
for word; do
  case "$word" in
  save_dir=*) eval "folder=${word#save_dir=}" ;;
  */accelerate/*.yaml) name=$(basename "$word" .yaml) ;;
  save_steps=2) waits=yes ;;
  esac
done
echo "$name $*" >> HERE/calls
mkdir -p "$folder"
if [ "$waits" ] && [ ! -e "$folder/checkpoint-2" ]; then mkdir "$folder/checkpoint-2"; exec sleep 600; fi
if [ $name = alone ]; then cp HERE/one.safetensors "$folder/adapter_model.safetensors"
else cp HERE/off.safetensors "$folder/adapter_model.safetensors"; fi
cp "HERE/$name.json" "$folder/run.json"
