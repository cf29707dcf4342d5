"""What diffusers loads where it is given this folder as `custom_pipeline`.

```python
import elevator.pipelines
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained(
    folder, custom_pipeline=elevator.pipelines.__path__[0], trust_remote_code=True
)
```

The folder is one that `VideoElevatorPipeline.save_pretrained` wrote, or that of a T2I whose solver
is DDIM, with the T2V's parts (`video_unet=...` and so on) given beside it. diffusers copies this
file and runs the copy, hence `trust_remote_code`. Without `custom_pipeline` it looks the class up
in itself and fails. `VideoElevatorPipeline.from_pretrained` needs neither, refuses pickled weights
and checks that both models share a latent space.
"""

from elevator.pipelines.video_elevator import VideoElevatorPipeline as VideoElevatorPipeline
