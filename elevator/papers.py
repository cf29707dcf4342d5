"""BibTeX of papers that more than one part comes from."""

__all__ = ["SDEDIT", "UPSCALE_A_VIDEO", "VIDEOELEVATOR"]

SDEDIT = """@inproceedings{meng2022sdedit,
  title={{SDEdit}: Guided Image Synthesis and Editing with Stochastic Differential Equations},
  author={Meng, Chenlin and He, Yutong and Song, Yang and Song, Jiaming and Wu, Jiajun and
          Zhu, Jun-Yan and Ermon, Stefano},
  booktitle={International Conference on Learning Representations},
  year={2022},
  eprint={2108.01073},
}"""
UPSCALE_A_VIDEO = """@inproceedings{zhou2024upscaleavideo,
  title={Upscale-A-Video: Temporal-Consistent Diffusion Model for Real-World Video
         Super-Resolution},
  author={Zhou, Shangchen and Yang, Peiqing and Wang, Jianyi and Luo, Yihang and
          Loy, Chen Change},
  booktitle={IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year={2024},
  eprint={2312.06640},
}"""
VIDEOELEVATOR = """@article{zhang2024videoelevator,
  title = {VideoElevator: Elevating Video Generation Quality with Versatile Text-to-Image
           Diffusion Models},
  author = {Zhang, Yabo and Wei, Yuxiang and Lin, Xianhui and Hui, Zheng and Ren, Peiran and
            Xie, Xuansong and Ji, Xiangyang and Zuo, Wangmeng},
  journal = {arXiv preprint arXiv:2403.05438},
  year = {2024}
}"""
