"""Answer the benchmark's questions with a model and an adapter.

  python ckpt_infer.py --checkpoint_path ADAPTER --output_file predictions.json
  accelerate launch --config_file config/accelerate/ddp.yaml ckpt_infer.py ...      (several GPUs: each answers a part)
  python ckpt_infer.py --backend openai --base_url http://localhost:8000/v1 --model_path MERGED ...   (a server)

Each response is kept as soon as it is finished: after a stop at any moment, the same command resumes. Exit code 3: the
run has finished, but some responses are missing, for the reasons listed.
"""

from safeeraser import infer
from safeeraser.errors import command
from safeeraser.infer.options import INCOMPLETE, arguments, speak


@command
def main() -> int:
    """Read the arguments and infer."""
    given = arguments(__doc__).parse_args()
    speak()
    return INCOMPLETE if infer(**vars(given)).missing else 0


if __name__ == "__main__":
    main()
