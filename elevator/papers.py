"""BibTeX of papers that more than one part comes from."""

__all__ = ["SDEDIT", "VIDEOELEVATOR"]

SDEDIT = """@inproceedings{meng2022sdedit,
  title={{SDEdit}: Guided Image Synthesis and Editing with Stochastic Differential Equations},
  author={Meng, Chenlin and He, Yutong and Song, Yang and Song, Jiaming and Wu, Jiajun and
          Zhu, Jun-Yan and Ermon, Stefano},
  booktitle={International Conference on Learning Representations},
  year={2022},
  eprint={2108.01073},
}"""
VIDEOELEVATOR = """@article{zhang2024videoelevator,
  title = {VideoElevator: Elevating Video Generation Quality with Versatile Text-to-Image
           Diffusion Models},
  author = {Zhang, Yabo and Wei, Yuxiang and Lin, Xianhui and Hui, Zheng and Ren, Peiran and
            Xie, Xuansong and Ji, Xiangyang and Zuo, Wangmeng},
  journal = {arXiv preprint arXiv:2403.05438},
  year = {2024}
}"""
